"""The report on Du-IN: decisions, codes, channels, how it was computed, what to cite."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ...core.result import Section

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .result import DuINResult

REFERENCES = (
    "Zheng H, Wang H, Jiang W, et al. (2024). Du-IN: Discrete units-guided mask modeling for decoding speech from "
    "intracranial neural signals. NeurIPS 2024. arXiv:2405.11459.",
    "van den Oord A, Vinyals O, Kavukcuoglu K (2017). Neural discrete representation learning. NeurIPS 2017. "
    "arXiv:1711.00937.",
)

_CAPTIONS = {
    "masked": "Hidden tokens whose code was told from the others.",
    "codebook": "Use of the codes on windows held out.",
    "codes": "Codes of the windows held out; one colour a code.",
    "code_by_label": "Codes that occur in each class.",
    "reconstruction": "One window held out, and what the codes keep of it.",
    "channels": "Weight of each channel in the subject layer.",
    "brain": "The same at the places of the channels.",
    "compared": "Balanced accuracy on the trials set aside.",
}


def sections(result: DuINResult) -> list[Section]:
    """Return the parts of the report, most important first."""
    parts = result.decoder_section() if len(result.labels) else []
    if result.baselines:
        rows = tuple((name, f"{value:.3f}") for name, value in result.baselines.items())
        parts.append(Section(title="Beside baselines", text="Balanced accuracy on the same trials set aside.",
                             table=(("model", "accuracy"), *rows), figures=_figures(result, "compared")))  # fmt: skip
    if result.code_usage is not None:
        parts.append(_codes(result))
    used = int(result.channel_used.sum())
    text = f"{used} of {len(result.channels)} channels of {len(result.subjects)} subject(s) were used."
    parts.append(Section(title="Channels", text=text, figures=_figures(result, "channels", "brain")))
    return [*parts, _methods(result)]


def _codes(result: DuINResult) -> Section:
    """What the first two stages learnt."""
    size = result.sizes_of["n_codes"]
    text = f"The effective number of codes in use is {result.code_perplexity:.1f} of {size}."
    text += f" The error of the reconstruction is {result.reconstruction_error:.3f} of the variance of the signal."
    if result.masked_accuracy == result.masked_accuracy:  # not NaN
        text += f" Of hidden tokens {result.masked_accuracy:.1%} were told"
        text += f" (always the commonest code: {result.masked_majority:.1%})."
    kinds = ("reconstruction", "codebook", "masked", "codes", "code_by_label")
    return Section(title="Discrete units", text=text, figures=_figures(result, *kinds))


def _methods(result: DuINResult) -> Section:
    """How it was computed."""
    sizes = result.sizes_of
    rate = result.contract.rate or 1.0
    text = (
        f"Channels were fused into {sizes['sources']} sources, patches of {sizes['patch'] / rate:g} s into tokens of "
        f"{sizes['patch'] // sizes['stride'] * sizes['features']} numbers, and tokens passed {sizes['depth']} "
        "blocks of attention. "
    )
    if result.codebook_weights:
        text += "A vector-quantised autoencoder learnt codes by reconstruction. "
    if result.masked_weights:
        text += "A second encoder learnt to tell the codes of hidden tokens. "
    figures = (("Loss of each stage.", _draw(result, "stages")),)
    return Section(title="Du-IN", text=text, figures=figures, references=REFERENCES)


def _figures(result: DuINResult, *kinds: str) -> tuple[tuple[str, Callable[[], Axes]], ...]:
    known = result.plots()
    return tuple((_CAPTIONS[kind], _draw(result, kind)) for kind in kinds if kind in known)


def _draw(result: DuINResult, kind: str) -> Callable[[], Axes]:
    return lambda: result.plot(kind)

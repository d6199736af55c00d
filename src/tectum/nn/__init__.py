"""Parts of networks: attention, patch convolutions, vector quantiser, masking, subject layers, losses; decoders."""

from .attention import EncoderBlock, SelfAttention, sinusoid
from .conv import PatchDecoder, PatchEncoder
from .masking import random_mask
from .subject import SubjectLinear
from .vq import VectorQuantiser

__all__ = [
    "EncoderBlock",
    "PatchDecoder",
    "PatchEncoder",
    "SelfAttention",
    "SubjectLinear",
    "VectorQuantiser",
    "random_mask",
    "sinusoid",
]

"""Defines the merge methods: pure functions of tensors that declare their own parameters."""

from evomerge.methods.arcee_fusion import arcee_fusion
from evomerge.methods.breadcrumbs import breadcrumbs, breadcrumbs_ties
from evomerge.methods.concrete import concrete
from evomerge.methods.consensus import consensus_ta, consensus_ties, tall_mask
from evomerge.methods.curve import curve
from evomerge.methods.dare import dare_linear, dare_ties
from evomerge.methods.della import della, della_linear
from evomerge.methods.fisher import fisher
from evomerge.methods.gated import MixtureOfAdapters, TwinMerging, WeightEnsembling
from evomerge.methods.karcher import karcher
from evomerge.methods.linear import linear
from evomerge.methods.lora_lego import lora_lego
from evomerge.methods.lorahub import lorahub
from evomerge.methods.magnitude_prune import magnitude_prune
from evomerge.methods.mask_merge import mask_merge
from evomerge.methods.model_stock import model_stock
from evomerge.methods.moe import MixtureOfExperts
from evomerge.methods.multislerp import multislerp
from evomerge.methods.nearswap import nearswap
from evomerge.methods.nuslerp import nuslerp
from evomerge.methods.parameters import REQUIRED, Count, Doc, ParameterSpec, Range
from evomerge.methods.passthrough import passthrough
from evomerge.methods.ram import ram, ramplus_tl
from evomerge.methods.random import CounterRandom
from evomerge.methods.registry import (
    MethodSpec,
    get,
    merge_method,
    names,
    register_method,
    registered,
    structures,
)
from evomerge.methods.regmean import regmean
from evomerge.methods.sce import sce
from evomerge.methods.slerp import slerp
from evomerge.methods.smile import Smile
from evomerge.methods.task_arithmetic import task_arithmetic
from evomerge.methods.ties import ties, ties_global
from evomerge.methods.ubgm import ubgm
from evomerge.methods.varm import varm
from evomerge.methods.widen import Widening
from evomerge.methods.wise_ft import wise_ft

__all__ = [
    "REQUIRED",
    "Count",
    "CounterRandom",
    "Doc",
    "MethodSpec",
    "MixtureOfAdapters",
    "MixtureOfExperts",
    "ParameterSpec",
    "Range",
    "Smile",
    "TwinMerging",
    "WeightEnsembling",
    "Widening",
    "arcee_fusion",
    "breadcrumbs",
    "breadcrumbs_ties",
    "concrete",
    "consensus_ta",
    "consensus_ties",
    "curve",
    "dare_linear",
    "dare_ties",
    "della",
    "della_linear",
    "fisher",
    "get",
    "karcher",
    "linear",
    "lora_lego",
    "lorahub",
    "magnitude_prune",
    "mask_merge",
    "merge_method",
    "model_stock",
    "multislerp",
    "names",
    "nearswap",
    "nuslerp",
    "passthrough",
    "ram",
    "ramplus_tl",
    "register_method",
    "registered",
    "regmean",
    "sce",
    "slerp",
    "structures",
    "tall_mask",
    "task_arithmetic",
    "ties",
    "ties_global",
    "ubgm",
    "varm",
    "wise_ft",
]

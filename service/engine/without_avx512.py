"""Products on an x86-64 processor without AVX-512, in float32: what it does fast, and what vLLM has for INT4 there.

vLLM 0.32 chooses its INT4 kernel on any x86-64 CPU and fails at the first question where the processor has AVX2 alone,
since the build for AVX2 lacks the operator (`_C.cpu_gemm_wna16`). And a product in bfloat16 takes such a processor
about twelve times as long as one in float32 (docs/measured/speed.md). So weights become float32 once they are loaded,
those in INT4 multiplied by their scales: eight times the memory of INT4, twice that of bfloat16
(service/engine/sizing.py counts it). Activations come and go in bfloat16, so what is computed is the checkpoint's
own W4A16 or bfloat16. vLLM calls this through its `vllm.general_plugins` entry points in each of its processes; with
AVX-512, and on a GPU, it changes nothing.
"""

from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, Parameter
from torch.nn.functional import linear
from vllm.model_executor.kernels.linear import _POSSIBLE_KERNELS
from vllm.model_executor.kernels.linear.mixed_precision.cpu import CPUWNA16LinearKernel
from vllm.model_executor.layers import utils
from vllm.model_executor.layers.quantization.utils.quant_utils import unpack_quantized_values_into_int32
from vllm.platforms import PlatformEnum

from service.environment import without_avx512

_as_vllm = utils.dispatch_cpu_unquantized_gemm


def use_on_cpu() -> None:
    """Let vLLM multiply in float32 where it runs on an x86-64 CPU without AVX-512."""
    kernels = _POSSIBLE_KERNELS[PlatformEnum.CPU]
    if without_avx512() and Unpacked not in kernels:
        kernels.insert(0, Unpacked)
        utils.dispatch_cpu_unquantized_gemm = in_float32


class Unpacked(CPUWNA16LinearKernel):  # type: ignore[misc]
    """vLLM's kernel for INT4 on a CPU, for the same layers, with weights that are float32 once they are loaded."""

    def process_weights_after_loading(self, layer: Module) -> None:
        """Put the layer's weight (output, input) in float32 in place of its packed values, scales and zero points.

        As loaded, eight values lie in an int32: along the input for weights, along the output for zero points. A scale
        and a zero point are for a group of inputs of one output.
        """
        packed, scales, zeros = self._get_weight_params(layer)
        values = unpack_quantized_values_into_int32(packed.data, self.config.weight_type, packed.packed_dim)
        values = values if packed.input_dim == 1 else values.t()
        scale = scales.data if scales.output_dim == 0 else scales.data.t()
        if self.config.zero_points and zeros is not None:
            unpacked = unpack_quantized_values_into_int32(zeros.data, self.config.weight_type, zeros.packed_dim)
            zero = unpacked if zeros.output_dim == 0 else unpacked.t()
        else:
            zero = torch.full_like(scale, self.config.weight_type.bias, dtype=torch.int32)
        outputs, groups = scale.shape
        grouped = (values.reshape(outputs, groups, -1) - zero[..., None]) * scale[..., None].float()
        setattr(layer, self.w_q_name, Parameter(grouped.reshape(outputs, -1), requires_grad=False))
        for name in (self.w_s_name, self.w_zp_name):
            if name is not None:
                setattr(layer, name, None)

    def apply_weights(self, layer: Module, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Products of `x` (tokens, input) with the layer's weight, (tokens, output) in the dtype of `x`."""
        return _product(x, getattr(layer, self.w_q_name), bias)


@wraps(_as_vllm)
def in_float32(layer: Any, remove_weight: bool) -> None:
    """Let a layer whose weight (output, input) is in bfloat16 multiply in float32; others as vLLM does.

    With `remove_weight` the one in bfloat16 is not kept.
    """
    given = layer.weight
    if given.is_meta or given.ndim != 2 or given.dtype != torch.bfloat16:
        _as_vllm(layer, remove_weight)
        return
    in_full = given.data.float()
    layer.cpu_linear = lambda x, _weight, bias: _product(x, in_full, bias)
    if remove_weight:
        layer.weight = Parameter(given.data.new_empty(0), requires_grad=False)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return linear(x.float(), weight, None if bias is None else bias.float()).to(x.dtype)

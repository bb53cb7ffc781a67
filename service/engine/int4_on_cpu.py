"""INT4 weights on a processor without AVX-512, for which vLLM has no INT4 product: they are unpacked when loaded.

vLLM 0.32 chooses its INT4 kernel on any x86-64 CPU and fails at the first question where the processor has AVX2 alone,
since the build for AVX2 lacks the operator (`_C.cpu_gemm_wna16`). Here the same 4-bit weights are multiplied by their
scales once and kept in float32: they take eight times the memory of INT4, and products in float32 are what such a
processor does fast (one in bfloat16 takes it twelve times as long: docs/measured/speed.md). Activations come and go in
bfloat16, so answers are W4A16's. vLLM calls this through its `vllm.general_plugins` entry points in each of its
processes; where vLLM has the operator, and on a GPU, it changes nothing.
"""

import logging

import torch
import vllm._custom_ops  # noqa: F401  (loads the operators)
from torch import Tensor
from torch.nn import Module, Parameter
from torch.nn.functional import linear
from vllm.model_executor.kernels.linear import _POSSIBLE_KERNELS
from vllm.model_executor.kernels.linear.mixed_precision.cpu import CPUWNA16LinearKernel
from vllm.model_executor.layers.quantization.utils.quant_utils import unpack_quantized_values_into_int32
from vllm.platforms import PlatformEnum, current_platform

log = logging.getLogger(__name__)


def use_on_cpu() -> None:
    """Let vLLM unpack INT4 weights where it runs on a CPU for which it has no INT4 product."""
    kernels = _POSSIBLE_KERNELS[PlatformEnum.CPU]
    if current_platform.is_cpu() and not hasattr(torch.ops._C, "cpu_gemm_wna16") and Unpacked not in kernels:
        kernels.insert(0, Unpacked)


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
        weight = getattr(layer, self.w_q_name)
        return linear(x.float(), weight, None if bias is None else bias.float()).to(x.dtype)

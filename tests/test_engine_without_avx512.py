"""Products on a processor without AVX-512: weights in INT4 and in bfloat16, multiplied in float32."""

from typing import Any

import pytest

pytest.importorskip("vllm")

import torch
import vllm.model_executor.kernels.linear as kernels
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import Module, Parameter
from vllm.model_executor.kernels.linear.mixed_precision.MPLinearKernel import MPLinearLayerConfig
from vllm.model_executor.layers import utils
from vllm.platforms import PlatformEnum
from vllm.scalar_type import scalar_types

from service.engine import without_avx512


def _as_loaded(data: Tensor, **dims: int) -> Parameter:
    """A parameter that says, as vLLM's do, which of its dimensions are input, output and packed."""
    parameter = Parameter(data, requires_grad=False)
    for name, dim in dims.items():
        setattr(parameter, name, dim)
    return parameter


@given(
    inputs=st.sampled_from([32, 64, 96]),
    outputs=st.sampled_from([32, 64]),
    groups=st.sampled_from([1, 2]),
    zero_points=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_products_are_those_of_the_weights_that_were_packed(
    inputs: int, outputs: int, groups: int, zero_points: bool, seed: int
) -> None:
    drawn = torch.Generator().manual_seed(seed)
    values = torch.randint(-8, 8, (outputs, inputs), generator=drawn, dtype=torch.int8)
    scales = torch.rand(outputs, groups, generator=drawn).bfloat16()
    zeros = torch.zeros(outputs, groups, dtype=torch.int8)
    if zero_points:
        zeros = torch.randint(-8, 8, zeros.shape, generator=drawn, dtype=torch.int8)
    layer: Any = Module()
    layer.weight_packed = _as_loaded(pack_to_int32(values, 4), input_dim=1, output_dim=0, packed_dim=1)
    layer.weight_scale = _as_loaded(scales, input_dim=1, output_dim=0)
    if zero_points:
        packed = pack_to_int32(zeros, 4, packed_dim=0)
        layer.weight_zero_point = _as_loaded(packed, input_dim=1, output_dim=0, packed_dim=0)

    kernel = _kernel((inputs, outputs), inputs // groups, zero_points)
    kernel.process_weights_after_loading(layer)
    x, bias = torch.randn(3, inputs, generator=drawn).bfloat16(), torch.randn(outputs, generator=drawn).bfloat16()
    got = kernel.apply_weights(layer, x, bias)

    repeated = inputs // groups
    weight = (values - zeros.repeat_interleave(repeated, 1)) * scales.float().repeat_interleave(repeated, 1)
    wanted = (x.double() @ weight.double().T + bias.double()).float()
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), wanted, rtol=2**-7, atol=1e-2)
    assert {parameter.dtype for parameter in layer.parameters()} == {torch.float32}, "nothing packed is kept beside it"


def _kernel(shape: tuple[int, int], group: int, zero_points: bool) -> without_avx512.Unpacked:
    weight_type = scalar_types.uint4 if zero_points else scalar_types.uint4b8
    config = MPLinearLayerConfig(shape, shape, weight_type, torch.bfloat16, group, zero_points)
    return without_avx512.Unpacked(config, "weight_packed", "weight_scale", "weight_zero_point")


@pytest.mark.parametrize("without", [True, False])
def test_weights_become_float32_only_where_the_processor_has_no_avx_512(
    monkeypatch: pytest.MonkeyPatch, without: bool
) -> None:
    before = [kernel for kernel in kernels._POSSIBLE_KERNELS[PlatformEnum.CPU] if kernel is not without_avx512.Unpacked]
    monkeypatch.setitem(kernels._POSSIBLE_KERNELS, PlatformEnum.CPU, before)
    monkeypatch.setattr(utils, "dispatch_cpu_unquantized_gemm", without_avx512._as_vllm)
    monkeypatch.setattr(without_avx512, "without_avx512", lambda: without)
    without_avx512.use_on_cpu()
    without_avx512.use_on_cpu()
    assert before.count(without_avx512.Unpacked) == without
    assert (before[0] is without_avx512.Unpacked) == without
    assert (utils.dispatch_cpu_unquantized_gemm is without_avx512.in_float32) == without


@pytest.mark.parametrize("remove_weight", [True, False])
def test_a_product_with_a_weight_in_bfloat16_is_rounded_once(remove_weight: bool) -> None:
    weight, x, bias = torch.randn(48, 32).bfloat16(), torch.randn(3, 32).bfloat16(), torch.randn(48).bfloat16()
    layer: Any = Module()
    layer.weight = Parameter(weight.clone(), requires_grad=False)
    without_avx512.in_float32(layer, remove_weight)
    got = layer.cpu_linear(x, layer.weight, bias)
    wanted = (x.double() @ weight.double().T + bias.double()).bfloat16()
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got, wanted, rtol=2**-7, atol=1e-6)
    assert layer.weight.numel() == (0 if remove_weight else 48 * 32)

"""INT4 weights unpacked for a processor that vLLM has no INT4 product for."""

from types import SimpleNamespace
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
from vllm.platforms import PlatformEnum
from vllm.scalar_type import scalar_types

from service.engine import int4_on_cpu


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


def _kernel(shape: tuple[int, int], group: int, zero_points: bool) -> int4_on_cpu.Unpacked:
    weight_type = scalar_types.uint4 if zero_points else scalar_types.uint4b8
    config = MPLinearLayerConfig(shape, shape, weight_type, torch.bfloat16, group, zero_points)
    return int4_on_cpu.Unpacked(config, "weight_packed", "weight_scale", "weight_zero_point")


@pytest.mark.parametrize(("operators", "first"), [(("cpu_gemm_wna16",), False), ((), True)])
def test_weights_are_unpacked_only_where_vllm_has_no_product_for_int4(
    monkeypatch: pytest.MonkeyPatch, operators: tuple[str, ...], first: bool
) -> None:
    before = [kernel for kernel in kernels._POSSIBLE_KERNELS[PlatformEnum.CPU] if kernel is not int4_on_cpu.Unpacked]
    monkeypatch.setitem(kernels._POSSIBLE_KERNELS, PlatformEnum.CPU, before)
    monkeypatch.setattr(torch.ops, "_C", SimpleNamespace(**dict.fromkeys(operators)))
    int4_on_cpu.use_on_cpu()
    int4_on_cpu.use_on_cpu()
    assert (before[0] is int4_on_cpu.Unpacked) == first
    assert before.count(int4_on_cpu.Unpacked) == first

import jax
import numpy as np
import pytest

from bt_jax.benchmark import hlo

# Lines as libtpu prints them, shortened.
HLO = """\
HloModule jit_train_step, is_scheduled=true

%add.clone (x: f32[], y: f32[]) -> f32[] {
  %x = f32[]{:T(128)} parameter(0)
  %y = f32[]{:T(128)} parameter(1)
  ROOT %sum = f32[]{:T(128)} add(%x, %y), metadata={op_name="after the all-reduce(x)"}
}

%wrapped (p: bf16[8,16]) -> bf16[1,16] {
  %p = bf16[8,16]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %reduce-scatter.1 = bf16[1,16]{1,0:T(8,128)(2,1)} reduce-scatter(%p), dimensions={0}, to_apply=%add.clone
}

ENTRY %main (a: f32[8]) -> f32[8] {
  %a = f32[8]{0:T(128)} parameter(0)
  %all-reduce.217 = (f32[8]{0:T(128)S(1)}, /*index=1*/f32[3,8]{0:T(128)S(1)}) all-reduce(%a, %a), channel_id=1, \
replica_groups=mesh['axis_0'=8] {'axis_0'}, to_apply=%add.clone
  %get-tuple-element.1 = f32[8]{0:T(128)S(1)} get-tuple-element(%all-reduce.217), index=0
  %all-reduce-start.2 = f32[100]{0:T(128)} all-reduce-start(%a), to_apply=%add.clone
  %all-reduce-done.2 = f32[100]{0:T(128)} all-reduce-done(%all-reduce-start.2)
  %all-gather-start.3 = (bf16[4]{0:T(128)}, bf16[32]{0:T(128)}) all-gather-start(%a), dimensions={0}
  %all-gather-done.3 = bf16[32]{0:T(128)} all-gather-done(%all-gather-start.3)
  %collective-permute-start.4 = (u8[7]{0}, u8[7]{0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%a)
  %collective-permute-done.4 = u8[7]{0} collective-permute-done(%collective-permute-start.4)
  %async-start.5 = ((bf16[8,16]{1,0}), bf16[1,16]{1,0}, s32[]) async-start(%p), calls=%wrapped
  %async-done.5 = bf16[1,16]{1,0} async-done(%async-start.5)
  ROOT %all-to-all.6 = (s32[2,3]{1,0}, s32[2,3]{1,0}) all-to-all(%a, %a), replica_groups={{0,1}}
}
"""


def test_collectives_are_counted_once_with_the_bytes_of_their_results():
    assert hlo.count_collectives(HLO) == {
        "all-reduce": {"count": 2, "bytes": 4 * (8 + 24) + 400},
        "all-gather": {"count": 1, "bytes": 64},
        "reduce-scatter": {"count": 1, "bytes": 32},
        "collective-permute": {"count": 1, "bytes": 7},
        "all-to-all": {"count": 1, "bytes": 48},
    }


def test_a_program_without_communication_has_none():
    compiled = jax.jit(lambda x: x @ x).lower(np.ones((8, 8), np.float32)).compile()
    assert hlo.count_collectives(compiled.as_text()) == {kind: {"count": 0, "bytes": 0} for kind in hlo.COLLECTIVES}


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("f32[]", 4),
        ("pred[3]{0}", 3),
        ("bf16[128,240,240,3]{3,0,2,1:T(8,128)(2,1)}", 2 * 128 * 240 * 240 * 3),
        ("(f32[2,3]{1,0}, s8[5], u32[]{:S(2)})", 24 + 5 + 4),
        ("s4[10]", 5),
        ("f8e4m3fn[4,4]", 16),
        ("c64[2]", 16),
        ("f32[0,7]", 0),
        ("token[]", 0),
    ],
)
def test_bytes_of_shapes(shape, expected):
    assert hlo.count_bytes(shape) == expected


MEMORY = """\
%branch (p: f32[100]) -> f32[100] {
  %p = f32[100]{0:T(128)} parameter(0)
  ROOT %negate.1 = f32[100]{0:T(128)} negate(%p)
}

%fused (q: f32[100]) -> f32[10] {
  %q = f32[100]{0:T(128)} parameter(0)
  ROOT %inside = f32[10]{0:T(128)} slice(%q), slice={[0:10]}
}

ENTRY %main (a: f32[100]) -> f32[100] {
  %a = f32[100]{0:T(128)} parameter(0)
  %copy-start.1 = (f32[100]{0:T(128)S(1)}, f32[100]{0:T(128)}, u32[]{:S(2)}) copy-start(%a)
  %copy-done.1 = f32[100]{0:T(128)S(1)} copy-done(%copy-start.1)
  %slice-start.1 = ((f32[100]{0:T(128)S(1)}), f32[20]{0:T(128)S(1)}, s32[]{:S(2)}) slice-start(%copy-done.1)
  %slice-done.1 = f32[20]{0:T(128)S(1)} slice-done(%slice-start.1)
  %fusion.1 = (f32[10]{0:T(128)}, /*index=1*/f32[10]{0:T(128)S(1)}) fusion(%copy-done.1, %a), kind=kLoop, calls=%fused
  %get-tuple-element.1 = f32[10]{0:T(128)} get-tuple-element(%fusion.1), index=0
  ROOT %conditional.1 = f32[100]{0:T(128)} conditional(%x, %a, %a), branch_computations={%branch, %branch}
}
"""


def test_only_what_is_outside_the_chip_counts_as_main_memory():
    copied, fused, branch = 512, 512 + 512, 512 + 512  # each fills a tile of 128 floats
    assert hlo.count_main_memory_bytes(MEMORY) == copied + fused + branch


def test_main_memory_of_a_real_program():
    compiled = jax.jit(lambda x: x @ x).lower(np.ones((64, 64), np.float32)).compile()
    assert hlo.count_main_memory_bytes(compiled.as_text()) >= 2 * 64 * 64 * 4


@pytest.mark.parametrize(
    ("shape", "filled"),
    [
        ("bf16[9,100]{1,0:T(8,128)(2,1)}", "bf16[16,128]"),
        ("bf16[9,100]{0,1:T(8,128)(2,1)}", "bf16[128,104]"),
        ("f32[2,3,200]{2,1,0:T(4,128)}", "f32[2,4,256]"),
        ("f32[5]{0:T(128)}", "f32[128]"),
        ("f32[]{:T(128)}", "f32[]{:T(128)}"),
        ("f32[5,7]{1,0}", "f32[5,7]{1,0}"),
    ],
)
def test_tiles_are_filled(shape, filled):
    assert hlo._pad_to_tiles(shape) == filled

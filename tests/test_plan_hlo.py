"""What is read from the text of a compiled program."""

import jax
import jax.numpy as jnp
import pytest

from jbert.plan.hlo import Collective, part_of, read

# As the TPU's compiler writes it, shortened: a loop of twelve turns that the text tells by its
# condition, one of three that it tells by a note, and collectives in all the ways to name a group.
PROGRAM = """
HloModule jit_run, is_scheduled=true

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[]{:T(128)} parameter(0)
  %y = f32[]{:T(128)} parameter(1)
  ROOT %sum = f32[]{:T(128)} add(%x, %y), backend_config={"estimated_cycles":"999"}
}

%fused (a: f32[768]) -> bf16[64] {
  %a = f32[768]{0:T(1024)} parameter(0)
  %inside = f32[768]{0:T(1024)} negate(%a), backend_config={"estimated_cycles":"7"}
  ROOT %rs = bf16[64]{0:T(128)(2,1)} reduce-scatter(%inside), replica_groups={{0,1},{2,3}}, to_apply=%add
}

%body (p: (s32[], bf16[32,768])) -> (s32[], bf16[32,768]) {
  %p = (s32[]{:T(128)}, bf16[32,768]{1,0:T(8,128)(2,1)}) parameter(0)
  %one = bf16[32,768]{1,0:T(8,128)(2,1)} fusion(%p), kind=kOutput, calls=%fused, metadata={op_name="jit(run)/jvp(M)/encoder.forward/while/body/layers/attention/dot_general"}, backend_config={"window_config":{"estimated_cycles":"100"}}
  %gathered = (bf16[8,768]{1,0}, bf16[32,768]{1,0}) all-gather-start(%one), replica_groups=[2,4]<=[8], dimensions={0}
  ROOT %next = (s32[]{:T(128)}, bf16[32,768]{1,0:T(8,128)(2,1)}) tuple(%p, %one)
}

%condition (p: (s32[], bf16[32,768])) -> pred[] {
  %limit = s32[]{:T(128)} constant(12)
  %p = (s32[]{:T(128)}, bf16[32,768]{1,0:T(8,128)(2,1)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

ENTRY %main_spmd (q: bf16[32,768]) -> bf16[32,768] {
  %q = bf16[32,768]{1,0:T(8,128)(2,1)} parameter(0)
  %twelve = (s32[]{:T(128)}, bf16[32,768]{1,0}) while(%q), condition=%condition, body=%body
  %three = (s32[], /*index=1*/bf16[32,768]{1,0}) while(%q), condition=%unknown, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %grads = (f32[768]{0:T(1024)}, bf16[768,768]{1,0:T(8,128)(2,1)}) all-reduce(%q, %q), replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_0','axis_1'}, to_apply=%add
  %alone = f32[768]{0} all-reduce(%q), replica_groups={{0},{1}}, to_apply=%add
  ROOT %done = bf16[32,768]{1,0:T(8,128)(2,1)} fusion(%twelve), kind=kLoop, calls=%other, metadata={op_name="jit(run)/select_n"}, backend_config={"window_config":{"estimated_cycles":"50"}}
}
"""  # noqa: E501


def test_loops_are_counted_as_often_as_they_turn():
    found = read(PROGRAM, 8)
    assert found.loops == (12, 3)
    assert found.parts == {"attention": 1500, "optimizer": 50} and found.cycles == 1550


def test_collectives_by_kind_and_by_how_many_take_part():
    assert read(PROGRAM, 8).collectives == (
        Collective("all-gather", 4, 15, 15 * 32 * 768 * 2, 32 * 768 * 2),
        Collective("all-reduce", 8, 1, 768 * 4 + 768 * 768 * 2, 768 * 4 + 768 * 768 * 2),
        Collective("reduce-scatter", 2, 15, 15 * 64 * 2, 64 * 2),
    )


def test_a_loop_whose_length_the_text_does_not_tell_counts_once_and_is_named():
    text = PROGRAM.replace("constant(12)", "parameter(1)")
    found = read(text, 8)
    assert found.loops == (None, 3) and found.parts["attention"] == 400


def test_a_real_program_of_this_machine():
    def loop(x):
        return jax.lax.fori_loop(0, 5, lambda i, y: jnp.sin(y @ y), x)

    program = jax.jit(loop).lower(jnp.ones((8, 8))).compile()
    found = read(program.as_text(), 1)
    assert found.loops == (5,) and found.cycles == 0 and not found.collectives


@pytest.mark.parametrize(
    ("scope", "part"),
    [
        ("jit(run)/jvp(M)/encoder.forward/while/body/layers/attention/Dropout_0/mul", "dropout"),
        ("jit(run)/jvp(M)/encoder.forward/layer_0/attention/query/dot", "attention"),
        ("jit(run)/transpose(jvp(M))/encoder.forward/layer_0/ffn_norm/mul", "feed-forward"),
        ("jit(run)/jvp(M)/encoder.forward/embeddings/word/gather", "embeddings"),
        ("jit(run)/jvp(M)/encoder.forward/while/body/dynamic_update_slice", "other layers"),
        ("jit(_forward)/M/M.forward/layer_3/bottleneck_output/dense/dot_general", "other layers"),
        ("jit(_forward)/M/M.forward/while/body/layers._narrow/norm/add", "other layers"),
        ("jit(run)/jvp(M)/M.fill_in/mlm/dot_general", "head and loss"),
        ("jit(run)/sqrt", "optimizer"),
        ("", "other"),
    ],
)
def test_what_an_operation_is_for(scope, part):
    assert part_of(scope) == part

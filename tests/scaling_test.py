import functools
import re

import jax
import numpy as np
import optax
from absl.testing import absltest

from benchmarks import scaling
from multimix_jax import parallel
from multimix_jax.train_step import make_train_step
from tests import tiny

PROGRAM = """
HloModule jit_step, entry_computation_layout={(f32[2,3]{1,0})->f32[2,3]{1,0}}
%sum (a: f32[], b: f32[]) -> f32[] {
  ROOT %add.1 = f32[] add(%a, %b)
}
ENTRY %main (x: f32[2,3]) -> f32[2,3] {
  %all-reduce.1 = (f32[2,3]{1,0}, bf16[5]{0}, /*index=2*/f32[]) all-reduce(%x, %y, %z)
  %gte = f32[2,3]{1,0} get-tuple-element(%all-reduce.1), index=0
  %all-gather.1 = pred[8]{0} all-gather(%p), dimensions={0}
  %all-reduce-start.2 = f32[7]{0:T(8)} all-reduce-start(%v), to_apply=%sum
  %all-reduce-done.2 = f32[7]{0} all-reduce-done(%all-reduce-start.2)
  ROOT %collective-permute.1 = u8[2,0]{1,0} collective-permute(%w), metadata={op_name="a = b"}
}
"""


class CollectivesTest(absltest.TestCase):
    def test_of_a_program_written_by_hand(self):
        want = [
            ("all-reduce", 4 * 6 + 2 * 5 + 4),
            ("all-gather", 8),
            ("all-reduce", 4 * 7),
            ("collective-permute", 0),
        ]
        self.assertEqual(scaling.collectives(PROGRAM), want)

    def test_devices_exchange_gradients_and_metrics_alone(self):
        objective, optimizer = tiny.objective(), optax.adam(1e-3)
        step = make_train_step(objective, optimizer, axis_name=parallel.AXIS)
        spread = parallel.make_spread(step)
        state = spread.put_state(tiny.train_state(objective, optimizer))
        lowered = spread.step.lower(state, spread.put_batch(tiny.batch(4)))
        found = scaling.collectives(lowered.compile().as_text())
        # An instance norm takes out the biases of the convolutions, so that they have no gradient.
        biases = re.compile(r"conv\d/bias$")
        name = functools.partial(jax.tree_util.keystr, simple=True, separator="/")
        leaves = jax.tree_util.tree_leaves_with_path(state.params)
        gradients = sum(leaf.size for path, leaf in leaves if not biases.search(name(path)))
        # The norms are computed after the exchange.
        _, metrics = lowered.out_info
        averaged = set(metrics) - {"grad_norm", "param_norm"}
        self.assertEqual(found, [("all-reduce", 4 * (gradients + len(averaged)))])


class ExponentTest(absltest.TestCase):
    def test_of_a_power(self):
        sizes = np.asarray([2, 4, 16])
        self.assertAlmostEqual(scaling.exponent(sizes, 3 * sizes**1.7), 1.7)


if __name__ == "__main__":
    absltest.main()

"""Requirements of both engines; each twin's test file runs these tests for its engine."""

import numpy as np
import pytest

from dioscuri.errors import UserError
from tests.support.engines import (
    BATCH,
    assert_states_close,
    assert_states_equal,
    make_engine,
    pictures,
    plan,
    posterior_noise,
    scalars,
    train,
)


def generate(engine, n, temperatures, **where):
    rows = {"index": np.arange(n)}
    return engine.run("generate", rows, temperatures=temperatures, output="sample", **where)["image"]


class EngineBehaviour:
    """Tests of an engine; a subclass names the twin."""

    twin: str

    def test_accumulation_equals_the_whole_batch(self):
        whole, split = make_engine(self.twin), make_engine(self.twin, "train.accumulation_steps=2")
        losses = [train(engine, (0, 1, 30)) for engine in (whole, split)]
        np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
        assert_states_close(whole.state_to_numpy(), split.state_to_numpy(), 1e-4)

    def test_recomputing_activations_changes_nothing(self):
        plain, recomputed = (
            make_engine(self.twin),
            make_engine(self.twin, "train.checkpoint_activations=True"),
        )
        np.testing.assert_allclose(train(plain, range(3)), train(recomputed, range(3)), rtol=1e-5)

    def test_generated_noise_is_a_function_of_seed_and_step(self):
        states = []
        for _ in range(2):
            engine = make_engine(self.twin)
            train(engine, range(2), recorded=False)
            states.append(engine.state_to_numpy())
        assert_states_equal(*states)
        batch = {"image": pictures(0)}
        engine = make_engine(self.twin)
        first, again, other = (
            engine.run("evaluate", batch, ema=False, step=step)["kl"] for step in (1, 1, 2)
        )
        np.testing.assert_array_equal(first, again)
        draws = [generate(engine, 4, [1.0] * 3, ema=False, step=step) for step in (1, 2)]
        assert (draws[0] != draws[1]).any()
        latents = [engine.run("encode", batch, ema=False, step=step)["z.0"] for step in (1, 2)]
        assert (latents[0] != latents[1]).mean() > 0.99
        assert other.shape == first.shape

    def test_a_skipped_step_changes_counters_only(self):
        engine = make_engine(self.twin, "optimizer.gradient_skip_threshold=1e-6")
        before = engine.state_to_numpy()
        for step in range(3):
            engine.train_step({"image": pictures(step)}, step, scalars(step))
        metrics = engine.fetch_metrics()
        assert (metrics["skips"], metrics["updates"], metrics["skips_in_row"]) == (3, 0, 3)
        assert np.isfinite(metrics["loss"])
        after = engine.state_to_numpy()
        for group in ("model", "ema", "optimizer"):
            assert_states_equal({group: before[group]}, {group: after[group]})
        assert engine.fetch_metrics()["skips_in_row"] == 3

    def test_a_gradient_that_is_not_finite_is_skipped_and_left_out_of_the_means(self):
        engine = make_engine(self.twin)
        bad = {name: np.full_like(array, np.nan) for name, array in posterior_noise(0).items()}
        engine.train_step({"image": pictures(0)}, 0, scalars(0), bad)
        engine.train_step({"image": pictures(1)}, 1, scalars(1), posterior_noise(1))
        metrics = engine.fetch_metrics()
        assert (metrics["skips"], metrics["updates"], metrics["skips_in_row"]) == (1, 1, 1)
        assert np.isfinite([metrics["loss"], metrics["grad_norm"]]).all()
        assert all(np.isfinite(array).all() for array in engine.state_to_numpy()["model"].values())
        assert engine.fetch_metrics()["skips_in_row"] == 0

    def test_short_batches_are_padded_and_trimmed(self):
        engine = make_engine(self.twin)
        noise = posterior_noise(0)
        whole = engine.run("evaluate", {"image": pictures(0)}, ema=True, step=0, noise=noise)
        part = engine.run(
            "evaluate",
            {"image": pictures(0)[:3]},
            ema=True,
            step=0,
            noise={name: array[:3] for name, array in noise.items()},
        )
        for name, array in part.items():
            assert len(array) == 3
            np.testing.assert_allclose(array, whole[name][:3], rtol=1e-4, atol=1e-4)

    def test_decoding_what_was_encoded_gives_the_reconstruction(self):
        engine = make_engine(self.twin)
        train(engine, range(5))
        batch = {"image": pictures(0)}
        made = engine.run("reconstruct", batch, ema=True, step=7, output="mean")["image"]
        actual = engine.run("encode", batch, ema=True, step=7)
        latents = {name: array for name, array in actual.items() if name.startswith("z.")}
        decoded = engine.run("decode", latents, ema=True, step=8, temperatures=[1.0] * 3, output="mean")[
            "image"
        ]
        assert made.dtype == np.uint8
        assert made.shape == (BATCH, 8, 8, 1)
        np.testing.assert_array_equal(made, decoded)
        again = engine.run("encode", batch, ema=True, step=7)
        np.testing.assert_array_equal(actual["z.2"], again["z.2"])
        assert all((actual[f"std.{group}"] > 0).all() for group in range(3))

    def test_masked_modes_and_statistics_have_the_promised_shapes(self):
        engine = make_engine(self.twin)
        batch = {"image": pictures(0)}
        masks = [np.array([1, 0, 0, 0.0]), np.zeros(4), np.ones(3)]
        made = engine.run("reconstruct", batch, ema=False, step=0, masks=masks, output="sample")
        assert made["kl"].shape == (BATCH, 3)
        np.testing.assert_array_equal(made["kl"][:, 1], 0)
        statistics = engine.run("divergence_statistics", batch, ema=False, step=0)
        assert {name: array.shape for name, array in statistics.items()} == {
            "kl.0": (BATCH, 4),
            "kl.1": (BATCH, 4),
            "kl.2": (BATCH, 3),
        }
        actual = engine.run("output_statistics", batch, ema=False, step=0)
        assert set(actual) == {"means", "log_scales"}
        assert len(actual["means"]) == BATCH
        assert generate(engine, 5, [1.0, 0.5, 0.0], ema=True, step=0).shape == (5, 8, 8, 1)

    def test_a_switch_or_another_batch_selects_another_program(self):
        engine = make_engine(self.twin)
        assert engine.compiles == (self.twin == "jax")
        whole, half = {"image": pictures(0)}, {"image": pictures(0)[: BATCH // 2]}
        programs = [engine.program(whole, scalars(step)) for step in (0, 1, 19, 20, 30)]
        assert programs[0] == programs[1] == programs[2] != programs[3] == programs[4]
        assert engine.program(half, scalars(0)) not in programs

    def test_mistakes_are_reported(self):
        with pytest.raises(UserError, match=r"num_gpus is 2 .*run.num_gpus=0"):
            make_engine(self.twin, "run.num_gpus=2")
        engine = make_engine(self.twin, "train.accumulation_steps=3")
        with pytest.raises(UserError, match="batch_size 8 must be a multiple"):
            engine.train_step({"image": pictures(0)}, 0, scalars(0))
        with pytest.raises(UserError, match="no mode 'inpaint'"):
            engine.run("inpaint", {"image": pictures(0)}, ema=True, step=0)

    def test_an_empty_batch_is_refused(self):
        """It would train on means over nothing, which are NaN."""
        engine = make_engine(self.twin)
        for empty in (pictures(0, batch=0), np.zeros((0, 8, 8, 1), np.uint8)):
            with pytest.raises(UserError, match="the batch is empty"):
                engine.train_step({"image": empty}, 0, scalars(0))
        with pytest.raises(UserError, match="the batch is empty"):
            engine.run("evaluate", {"image": pictures(0, batch=0)}, ema=True, step=0)
        assert engine.state_to_numpy()["counters"]["updates"] == 0

    def test_a_state_of_another_architecture_is_refused(self):
        engine = make_engine(self.twin)
        state = engine.state_to_numpy()
        name = "top_down.output_conv.weight"
        wrong = {**state, "model": {**state["model"], name: np.zeros((1, 2, 3, 3), np.float32)}}
        with pytest.raises(UserError, match=rf"'{name}'.*\(1, 2, 3, 3\)"):
            engine.state_from_numpy(wrong)
        for change, message in (
            ({"model": {k: v for k, v in state["model"].items() if k != name}}, "is missing"),
            ({"ema": {**state["ema"], "extra": np.zeros(1)}}, "'extra'.*unknown"),
            (
                {"optimizer": {**state["optimizer"], "exp_avg_sq.x": np.zeros(1)}},
                "has no tensor 'exp_avg_sq.x'",
            ),
        ):
            with pytest.raises(UserError, match=message):
                engine.state_from_numpy({**state, **change})
        assert_states_equal(engine.state_to_numpy(), state)

    def test_state_does_not_share_memory_with_the_engine(self):
        engine = make_engine(self.twin)
        state = engine.state_to_numpy()
        copies = {
            group: {name: array.copy() for name, array in tensors.items()} for group, tensors in state.items()
        }
        train(engine, range(2))
        assert_states_equal(state, copies)

    def test_decayed_parameters_come_first(self):
        engine = make_engine(self.twin)
        names = [slot.name for slot in engine.layout.slots if slot.start < engine.layout.n_decayed]
        assert names
        assert all(engine.family.decayed(name) for name in names)
        assert len(names) == sum(engine.family.decayed(slot.name) for slot in engine.layout.slots)
        assert plan().down

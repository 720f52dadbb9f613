"""Tests of multimix_jax.training.checkpoint."""

import errno
import functools
import gc
import logging
import os
import pathlib
import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from multimix_jax.errors import UsageError
from multimix_jax.names import Checkpoint
from multimix_jax.state import TrainState
from multimix_jax.training import checkpoint
from multimix_jax.training.checkpoint import Checkpoints, newest_step, read_variables

META = {"best_score": 0.1, "best_step": None, "data": "ab", "nested": {"seconds": 1.5}}


def state(step=0, *, width=3, keep_average=True, batch_stats=True):
    """Numbers that differ from place to place and from step to step."""
    variables = {"params": {"dense": {"kernel": jnp.zeros((2, width)), "bias": jnp.zeros(width)}}}
    if batch_stats:
        variables["batch_stats"] = {"mean": jnp.zeros(width)}
    created = TrainState.create(variables, optax.adam(1e-3), keep_average=keep_average)
    rng = np.random.default_rng(step)
    drawn = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), created)
    return drawn.replace(step=jnp.asarray(step, jnp.int32))


def steps(workdir, which):
    return sorted(int(path.name) for path in (workdir / "checkpoints" / which).iterdir())


def assert_same(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs)):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("which", [Checkpoint.LAST, Checkpoint.BEST])
@pytest.mark.parametrize("with_extras", [True, False])
def test_what_was_saved_is_restored_bit_by_bit(tmp_path, which, with_extras):
    kinds = dict(keep_average=with_extras, batch_stats=with_extras)
    saved = state(7, **kinds)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(which, saved, META)
    with Checkpoints(tmp_path) as checkpoints:
        restored, meta = checkpoints.restore(which, state(0, **kinds))
        assert (
            checkpoints.restore(
                Checkpoint.BEST if which == Checkpoint.LAST else Checkpoint.LAST, state(0, **kinds)
            )
            is None
        )
    assert_same(restored, saved)
    assert (restored.ema_params is None, restored.batch_stats == {}) == (not with_extras,) * 2
    assert meta == META


@pytest.mark.parametrize("keep_average", [True, False])
@pytest.mark.parametrize("average", [True, False])
def test_variables_to_evaluate_with(tmp_path, keep_average, average):
    saved = state(7, keep_average=keep_average)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(Checkpoint.BEST, saved, META)
    step, variables = read_variables(tmp_path, Checkpoint.BEST, average=average)
    want = saved.ema_params if average and keep_average else saved.params
    assert step == 7
    jax.tree.map(np.testing.assert_array_equal, variables["params"], want)
    like = state(0, keep_average=keep_average).eval_variables
    _, again = read_variables(tmp_path, Checkpoint.BEST, like, average=average)
    jax.tree.map(np.testing.assert_array_equal, again["params"], want)


def test_a_state_is_restored_where_the_given_one_lies(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(Checkpoint.LAST, state(3), {})
        device = jax.devices()[1]
        restored, _ = checkpoints.restore(Checkpoint.LAST, jax.device_put(state(), device))
    assert all(leaf.devices() == {device} for leaf in jax.tree.leaves(restored))


def test_a_new_run_has_nothing_to_restore(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(Checkpoint.LAST, state()) is None
        assert checkpoints.restore(Checkpoint.BEST, state()) is None


def test_two_last_and_one_best_are_kept(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        for step in (2, 4, 6):
            checkpoints.save(Checkpoint.LAST, state(step), {})
            checkpoints.save(Checkpoint.BEST, state(step), {})
        assert_same(checkpoints.restore(Checkpoint.LAST, state())[0], state(6))
    assert steps(tmp_path, Checkpoint.LAST) == [4, 6]
    assert steps(tmp_path, Checkpoint.BEST) == [6]


def test_the_state_is_a_checkpoint_of_orbax(tmp_path):
    """People read it with Orbax alone."""
    saved = state(7)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(Checkpoint.BEST, saved, META)
    with ocp.PyTreeCheckpointer() as orbax:
        restored = orbax.restore(tmp_path / "checkpoints" / "best" / "7" / "state")
    jax.tree.map(np.testing.assert_array_equal, restored["params"], saved.params)
    jax.tree.map(np.testing.assert_array_equal, restored["ema_params"], saved.ema_params)


def test_what_a_killed_process_left_is_cleared_away(tmp_path):
    for name in (".5.tmp", ".8.tmp"):
        (tmp_path / "checkpoints" / "last" / name / "state").mkdir(parents=True)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(Checkpoint.LAST, state()) is None
        checkpoints.save(Checkpoint.LAST, state(5), META)
    assert steps(tmp_path, Checkpoint.LAST) == [5]


def test_leaving_waits_for_what_is_being_written(tmp_path):
    saved = state(1, width=300_000)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(Checkpoint.LAST, saved, META)
    folder = tmp_path / "checkpoints" / Checkpoint.LAST
    assert [path.name for path in folder.iterdir()] == ["1"]
    with Checkpoints(tmp_path) as checkpoints:
        assert_same(checkpoints.restore(Checkpoint.LAST, state(width=300_000))[0], saved)


def test_a_saved_state_may_be_donated_at_once(tmp_path):
    advance = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    saved = state(1, width=300_000)
    expected = jax.tree.map(np.array, saved)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(Checkpoint.LAST, saved, {})
        jax.block_until_ready(advance(saved))
        assert_same(checkpoints.restore(Checkpoint.LAST, state(width=300_000))[0], expected)


def test_the_same_step_may_be_saved_again(tmp_path):
    for _ in range(2):
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(Checkpoint.LAST, state(2), META)
            checkpoints.save(Checkpoint.LAST, state(2), META)
    assert steps(tmp_path, Checkpoint.LAST) == [2]


def _largest_file(folder: pathlib.Path) -> pathlib.Path:
    files = [path for path in (folder / "state").rglob("*") if path.is_file()]
    return max(files, key=lambda path: path.stat().st_size)


def _truncate(folder):
    file = _largest_file(folder)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _empty(folder):
    _largest_file(folder).write_bytes(b"")


def _delete_state(folder):
    shutil.rmtree(folder / "state")


def _delete_meta(folder):
    (folder / "meta.json").unlink()


def _delete_checksums(folder):
    (folder / "checksums.json").unlink()


def _replace_checksums(folder):
    (folder / "checksums.json").write_text('[[1, "a"]]')


def failure(workdir, like):
    """The message of restoring."""
    with pytest.raises(UsageError) as error, Checkpoints(workdir) as checkpoints:
        checkpoints.restore(Checkpoint.LAST, like)
    return str(error.value)


def _flip_a_bit(folder):
    file = _largest_file(folder)
    content = bytearray(file.read_bytes())
    content[len(content) * 2 // 3] ^= 16
    file.write_bytes(content)


def _change_meta(folder):
    file = folder / "meta.json"
    whole = file.read_bytes()
    assert whole.count(b"0.1") == 1
    file.write_bytes(whole.replace(b"0.1", b"0.9"))


def _change_key(folder):
    """Of what Orbax keeps beside the arrays."""
    file = folder / "state" / "_CHECKPOINT_METADATA"
    whole = file.read_bytes()
    assert whole.count(b"_timestamp_nsecs") == 2
    file.write_bytes(whole.replace(b"_timestamp_nsecs", b"_timestamp_fsecs"))


DAMAGES = [
    _truncate,
    _empty,
    _flip_a_bit,
    _delete_state,
    _delete_meta,
    _delete_checksums,
    _replace_checksums,
    _change_meta,
    _change_key,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_of_a_damaged_checkpoint_the_one_before_is_used(tmp_path, damage, caplog):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(Checkpoint.LAST, state(3, width=3000), META)
        checkpoints.save(Checkpoint.LAST, state(5, width=3000), META)
    folder = tmp_path / "checkpoints" / Checkpoint.LAST / "5"
    damage(folder)
    with Checkpoints(tmp_path) as checkpoints, caplog.at_level(logging.WARNING):
        restored, meta = checkpoints.restore(Checkpoint.LAST, state(width=3000))
        assert_same(restored, state(3, width=3000))
        assert meta == META
        assert caplog.text.count(f"checkpoint {folder} is damaged (") == 1
        assert "<bound method" not in caplog.text  # a reason, not the objects of libraries
        assert (tmp_path / "checkpoints" / "damaged" / "last_5").is_dir()
        checkpoints.save(Checkpoint.LAST, state(5, width=3000), META)  # there is room for it again
    with Checkpoints(tmp_path) as checkpoints:
        assert_same(
            checkpoints.restore(Checkpoint.LAST, state(width=3000))[0], state(5, width=3000)
        )


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_only_checkpoint_damaged_is_named_and_left(tmp_path, damage):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(Checkpoint.LAST, state(3, width=3000), META)
    folder = tmp_path / "checkpoints" / Checkpoint.LAST / "3"
    damage(folder)
    message = failure(tmp_path, state(width=3000))
    assert message.startswith(f"checkpoint {folder} cannot be read (")
    assert "from a backup" in message and "\n" not in message
    assert folder.is_dir()


def _everything(folder):
    """Each file and folder below one with its content, and when it was last changed."""
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in (folder, *folder.rglob("*"))
    }


def test_a_reader_leaves_everything_as_it_is(tmp_path, caplog):
    with Checkpoints(tmp_path) as checkpoints:
        for step in (3, 5):
            checkpoints.save(Checkpoint.LAST, state(step), META)
        checkpoints.save(Checkpoint.BEST, state(3), META)
    last, best = (tmp_path / "checkpoints" / which for which in (Checkpoint.LAST, Checkpoint.BEST))
    for name in (".8.tmp/state", ".9.tmp/state.orbax-checkpoint-tmp"):
        (last / name).mkdir(parents=True)
    _truncate(last / "5")
    _truncate(best / "3")
    before = _everything(tmp_path)
    step, variables = read_variables(tmp_path, Checkpoint.LAST)
    assert step == 3
    jax.tree.map(np.testing.assert_array_equal, variables["params"], state(3).ema_params)
    assert f"checkpoint {last / '5'} is damaged (" in caplog.text
    with pytest.raises(UsageError, match=rf"checkpoint {best / '3'} cannot be read \("):
        read_variables(tmp_path, Checkpoint.BEST)
    assert _everything(tmp_path) == before


@pytest.mark.parametrize("moment", ["_find_fault", "_read_state"])
def test_a_reader_takes_the_newer_one_where_training_replaces_it(tmp_path, monkeypatch, moment):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(Checkpoint.BEST, state(3), META)
    original = getattr(checkpoint, moment)

    def replaced(*args):
        monkeypatch.undo()
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(Checkpoint.BEST, state(5), META)
        return original(*args)

    monkeypatch.setattr(checkpoint, moment, replaced)
    step, variables = read_variables(tmp_path, Checkpoint.BEST)
    assert step == 5
    jax.tree.map(np.testing.assert_array_equal, variables["params"], state(5).ema_params)
    assert steps(tmp_path, Checkpoint.BEST) == [5]


def test_every_flipped_bit_is_noticed(tmp_path):
    """Wherever it lies: the state is as it was saved, or not used."""
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(Checkpoint.LAST, state(3), META)
    folder = tmp_path / "checkpoints" / Checkpoint.LAST / "3"
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(20):
        file = files[rng.integers(len(files))]
        sound = file.read_bytes()
        content = bytearray(sound)
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
        file.write_bytes(content)
        with Checkpoints(tmp_path) as checkpoints:
            try:
                restored, meta = checkpoints.restore(Checkpoint.LAST, state())
                assert_same(restored, state(3))
                assert meta == META
            except UsageError:
                refused += 1
        file.write_bytes(sound)
    assert refused > 0


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (dict(width=4), "batch_stats.mean is float32[3], but float32[4] in the model"),
        (dict(keep_average=False), "ema_params.dense.bias is float32[3], but None in the model"),
    ],
    ids=["shapes", "structure"],
)
def test_a_checkpoint_of_another_model_is_refused(tmp_path, other, difference):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(Checkpoint.LAST, state(5), META)
    message = failure(tmp_path, state(**other))
    assert difference in message
    assert "checkpoints/last/5 cannot be read (" in message
    assert "--workdir" in message


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_full_from_the_begin(tmp_path, monkeypatch, caplog):
    def fail(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(Checkpoint.LAST, state(1), META)
        assert_same(checkpoints.restore(Checkpoint.LAST, state())[0], state(1))
        with monkeypatch.context() as full:
            full.setattr(ocp.Checkpointer, "save", fail)
            checkpoints.save(Checkpoint.LAST, state(2), META)
            assert_same(checkpoints.restore(Checkpoint.LAST, state())[0], state(1))
        assert caplog.text.count("could not be written to") == 1


def test_a_folder_that_may_not_be_written_to_ends_the_run(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(ocp.Checkpointer, "save", fail)
    with pytest.raises(PermissionError), Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(Checkpoint.LAST, state(1), META)


# Writes of other arrays end after the one that failed; tensorstore's errors come when collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_full_disk(small_disk, caplog):
    """It says so, keeps what is there and goes on; once there is room, the next is saved."""
    large = functools.partial(state, width=70_000)  # about 2.3 MiB on disk
    with caplog.at_level(logging.WARNING), Checkpoints(small_disk) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(Checkpoint.LAST, large(step, keep_average=False), META)
        like = large(0, keep_average=False)
        assert_same(checkpoints.restore(Checkpoint.LAST, like)[0], large(1, keep_average=False))
        assert caplog.text.count("could not be written to") >= 2  # at its begin, or its end
        assert "No space left" in caplog.text
        # A late thread of tensorstore may leave a temporary folder, which the next save removes.
        assert newest_step(small_disk, Checkpoint.LAST) == 1
        subprocess.run(
            ["mount", "-o", "remount,size=30m", str(small_disk)], check=True, capture_output=True
        )
        checkpoints.save(Checkpoint.LAST, large(4, keep_average=False), META)
    with Checkpoints(small_disk) as checkpoints:
        assert_same(checkpoints.restore(Checkpoint.LAST, like)[0], large(4, keep_average=False))
    gc.collect()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert read_variables(small_disk, Checkpoint.LAST)[0] == 4  # which needs no right to write

import time, pathlib, os
from tests.small_runs import *


def test_x(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    t = time.time()

    def lap(n):
        nonlocal t
        with capsys.disabled():
            print(n, time.time() - t)
        t = time.time()

    prepare_phantoms(tmp_path / "p")
    lap("prep")
    c = small_config(tmp_path / "p")
    launch_main(c, tmp_path / "w")
    lap("run")
    launch_main(c, tmp_path / "w2")
    lap("run2")
    launch_main(c, tmp_path / "w2")
    lap("finished")
    launch_main(c, tmp_path / "w2", "eval")
    lap("eval")
    launch_main(small_config(tmp_path / "p", ema_decay=0.0), tmp_path / "w3")
    lap("run3")

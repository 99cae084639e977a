#!/usr/bin/env python3
"""control_run.py CASE PLIMSOLL CONFIG FOLDER -- LAUNCHER…: what ranks do that were not started alike, or of which one hangs.
LAUNCHER ends where the number of ranks follows. Cases: handshake, hang, hang_mesh,
hang_pipeline, hang_evaluation, hang_save, hang_load, oversubscribed."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from smoke_run import expect, write_text

case, plimsoll, config, folder, launcher = sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]), sys.argv[6:]
SHORT = ["train.steps=4", "schedule.warmup=1", "model.layers=2", "run.log_every=1", "run.eval_every=0", "run.save_every=0",
         "data.validation=0", "run.threads=1"]


def arguments(run, *overrides):
    overrides = [*SHORT, f"run.dir={folder}/{run}", f"data.train={folder}/tokens", *overrides]
    return [str(config), *[a for o in overrides for a in ("--set", o)]]


def refused(command, code, *parts):
    """The program prints one FATAL line, and it has `parts`."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=100)
    fatal = [line for line in done.stderr.splitlines() if "FATAL" in line]
    shown = f"{done.returncode}\n{done.stderr[-3000:]}"
    expect(done.returncode == code, f"exit code is not {code}: {shown}")
    expect(len(fatal) == 1 and all(part in fatal[0] for part in parts), f"not one line with {parts}: {shown}")


def handshake():
    one = [*launcher, "1", plimsoll, "train", *arguments("configs")]
    other = [":", "-n", "1", plimsoll, "train", *arguments("configs", "optimizer.lr=0.5", "run.seed=7")]
    refused([*one, *other], 76, "about the configuration: rank(s) 1 differ from 1 of 2: optimizer.lr is 0.001 on rank 0 "
            "and 0.5 on rank 1")
    commands()
    copy = folder / "plimsoll_copy"
    shutil.copy(plimsoll, copy)
    with open(copy, "ab") as stream:
        stream.write(b"another build")
    refused([*launcher, "3", plimsoll, "train", *arguments("builds"), ":", "-n", "1", copy, "train", *arguments("builds")], 76,
            "about the build: rank(s) 3 differ from 3 of 4")


def commands():
    """Ranks that were given different commands, or arguments of one that change what it computes."""
    config_of = arguments("commands")
    for first, second, difference in [
            (["train", *config_of], ["eval", *config_of], "command is train on rank 0 and eval on rank 1"),
            (["eval", *config_of], ["train", *config_of], "command is eval on rank 0 and train on rank 1"),
            (["train", *config_of], ["generate", folder], "command is train on rank 0 and generate on rank 1"),
            (["train", *config_of], ["probe"], "command is train on rank 0 and probe on rank 1"),
            (["train", *config_of], ["trian", *config_of], "command is train on rank 0 and wrong: "),
            (["train", *config_of], ["--help"], "command is train on rank 0 and a question on rank 1"),
            (["plan", *config_of], ["plan", *config_of, "--ranks", "2"], '--ranks is "1" on rank 0 and "2" on rank 1'),
            (["eval", *config_of, "--batches", "2"], ["eval", *config_of, "--batches", "5"], '--batches is "2" on rank 0 and "5" on rank 1'),
            (["generate", "a", "--seed", "3"], ["generate", "a", "--seed", "4"], '--seed is "3" on rank 0 and "4" on rank 1'),
            (["generate", "a"], ["generate", "a", "--tokens", "7"], '--tokens is "100" on rank 0 and "7" on rank 1'),
            (["generate", "a", "--prompt", "x\n"], ["generate", "a", "--prompt", "y"], '--prompt is "x\\n" on rank 0 and "y" on rank 1'),
            (["probe"], ["probe", "--largest", "1MiB"], '--largest is "auto" on rank 0 and "1MiB" on rank 1'),
            (["probe", *config_of], ["probe", *config_of, "--set", "run.seed=7"], "run.seed is 1 on rank 0 and 7 on rank 1")]:
        refused([*launcher, "1", plimsoll, *first, ":", "-n", "1", plimsoll, *second], 76, "rank(s) 1 differ from 1 of 2: ", difference)


def rank_processes(launcher_pid):
    """Children of the launcher by rank."""
    found = {}
    for pid in Path(f"/proc/{launcher_pid}/task/{launcher_pid}/children").read_text().split():
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        ranks = [v.split(b"=")[1] for v in variables if v.startswith(b"OMPI_COMM_WORLD_RANK=")]
        found.update({int(rank): int(pid) for rank in ranks})
    return found


def metrics_of(run):
    path = run / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")] if path.is_file() else []


def in_steps(run, pid):
    return len(metrics_of(run)) > 3


def in_evaluation(run, pid):
    """An evaluation follows every step: it is not over as long as the last line is a step's."""
    lines = metrics_of(run)
    return len(lines) > 2 and "validation_loss" not in lines[-1]


def in_save(run, pid):
    """A checkpoint follows every step."""
    lines = metrics_of(run)
    return len(lines) > 2 and not (run / "checkpoints" / f"step_{lines[-1]['step']:08}").exists()


def has_the_data(run, pid):
    """The tokens are there, and no step was."""
    def opened(link):
        try:
            return os.readlink(link)
        except FileNotFoundError:  # closed since it was listed
            return ""

    files = [opened(f) for f in Path(f"/proc/{pid}/fd").iterdir()]
    return any(f.startswith(str(folder / "tokens")) for f in files) and not metrics_of(run)


def has_the_arena(run, pid):
    """The memory of a model of 50 MB, its gradients and moments is there: weights are drawn next, and no step was."""
    resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resident > 200e6 and not metrics_of(run)


def stop_when(now, run, process, victim):
    """Stops `victim` while now(run, its process), and makes sure that it is then."""
    for _ in range(20000):
        expect(process.poll() is None, f"the run ended: {process.stderr.read() if process.poll() is not None else ''}")
        stopped = rank_processes(process.pid).get(victim)
        if stopped and now(run, stopped):
            lines = len(metrics_of(run))
            os.kill(stopped, signal.SIGSTOP)
            time.sleep(0.3)  # what the others can still do alone
            if now is in_steps or now(run, stopped) and len(metrics_of(run)) == lines:
                return stopped
            os.kill(stopped, signal.SIGCONT)
        time.sleep(0.1 if now is in_steps else 0.003)
    sys.exit("the moment never came")


def stop_a_rank(name, ranks, victim, *overrides, now=in_steps):
    """Stops `victim` in the middle of a run. The others leave with code 75 in time; returns the texts of their reasons by rank."""
    deadline, run = 3, folder / name
    command = [*launcher, ranks, plimsoll, "train", *arguments(name, "train.steps=100000", "train.micro_batch=1",
                                                               "run.threads=1", f"comm.deadline={deadline}", *overrides)]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        stopped = stop_when(now, run, process, victim)
        begin = time.monotonic() - 0.3
        errors = process.communicate(timeout=60)[1]
        seconds = time.monotonic() - begin
    finally:
        if process.poll() is None:
            process.kill()
    print(f"over after {seconds:.1f} s")
    expect(process.returncode == 75, f"exit code {process.returncode}: {errors}")
    expect(deadline - 1 < seconds < deadline + 3, f"it took {seconds:.1f} s: {errors}")
    expect(errors.count("FATAL") == 1, errors)
    for _ in range(50):
        if not Path(f"/proc/{stopped}").exists():
            break
        time.sleep(0.1)
    expect(not Path(f"/proc/{stopped}").exists(), "the stopped rank is still there")
    texts = {}
    for rank in set(range(ranks)) - {victim}:
        reason = json.loads((run / f"exit_reason.{rank}.json").read_text())
        expect(reason["code"] == 75 and reason["kind"] == "peer_lost", f"rank {rank}: {reason}")
        texts[rank] = reason["text"]
    return texts


CALL = r"[a-z_]+ '[a-z_.0-9]+' over axis [a-z]+, call [0-9]+, [0-9]+ bytes"


def hang():
    """A replica is stopped: the others name what they wait for, and that it does not come.
    A ring may be over for one neighbour of the stopped rank and not for the other, which is then named with what it waits in."""
    waits = CALL + r": not complete after [0-9.]+ s: "
    for rank, text in stop_a_rank("replicas", 3, 2, "train.global_batch=30").items():
        direct = re.fullmatch(waits + "rank 2 has not arrived, rank 2 does not answer", text)
        chain = re.fullmatch(waits + rf"(ranks {1 - rank}, 2 have|rank {1 - rank} has) not arrived, rank {1 - rank} waits in {CALL}; "
                             r"no answer from rank\(s\) 2", text)
        expect(direct or chain, f"rank {rank}: {text}")


def hang_mesh():
    """On a mesh a rank may wait for one that waits itself: all name the one at the end of the chain."""
    for rank, text in stop_a_rank("mesh", 4, 3, "parallel.tensor=2", "parallel.data=2").items():
        found = re.fullmatch(CALL + r": not complete after .*rank ([23] has not arrived|([01]) has not arrived, rank \2 waits in ).*", text)
        expect(found and ("rank 3 does not answer" in text or "no answer from rank(s) 3" in text), f"rank {rank}: {text}")


def hang_pipeline():
    """A stage is stopped: its neighbours name the message that does not come or does not go."""
    message = (r"(send|receive) '(output|gradient) of micro-batch [0-9]+ for piece [0-9]' (to|from) rank 1 over axis "
               r"pipeline(_back)?, message [0-9]+, [0-9]+ bytes: not complete after [0-9.]+ s: rank 1 has not arrived, rank 1 does not answer")
    reduction = CALL + r": not complete after [0-9.]+ s: rank 1 has not arrived, rank 1 does not answer"
    for rank, text in stop_a_rank("stages", 2, 1, "parallel.pipeline=2", "train.global_batch=16").items():
        expect(re.fullmatch(f"({message})|({reduction})", text), f"rank {rank}: {text}")


def hang_evaluation():
    """What ranks wait for while they evaluate has the deadline of steps."""
    texts = stop_a_rank("evaluation", 2, 1, "parallel.tensor=2", "run.eval_every=1", "data.validation=0.5", "data.sequence=16",
                        "train.eval_batches=4000", "train.global_batch=1", now=in_evaluation)
    for rank, text in texts.items():
        expect(re.fullmatch(r"[a-z_]+ '.+' over axis tensor, .*: rank 1 has not arrived, rank 1 does not answer", text), f"rank {rank}: {text}")


def hang_save():
    """Who is stopped while a checkpoint is written is found by the deadline too; who is only slow has more time."""
    texts = stop_a_rank("save", 2, 1, "run.save_every=1", "model.hidden=256", "model.heads=4", "train.global_batch=2", now=in_save)
    for rank, text in texts.items():
        expect(re.fullmatch(r"(broadcast|all_reduce|all_gather) over axis (control|world), .*: rank 1 has not arrived, rank 1 does not answer",
                            text), f"rank {rank}: {text}")


def hang_load():
    """Who is stopped before the first step, with the data there or with the weights on their way, is found like any other."""
    for name, moment in {"data": has_the_data, "model": has_the_arena}.items():
        (folder / name).mkdir()  # no run has made it yet, and reasons are left in one that exists
        texts = stop_a_rank(name, 2, 1, "model.hidden=512", "model.heads=8", "model.layers=4", "train.global_batch=2", now=moment)
        for rank, text in texts.items():
            expect(re.fullmatch(r"[a-z_]+ ('.+' )?over axis (control|world|data), .*: rank 1 has not arrived, rank 1 does not answer", text),
                   f"{name}, rank {rank}: {text}")
            print(f"{name}: {text}")


def oversubscribed():
    """Four busy ranks on every core, and the shortest deadline: slow is not hung."""
    ranks = 4 * len(os.sched_getaffinity(0))
    done = subprocess.run([str(c) for c in [*launcher, ranks, plimsoll, "train",
                                            *arguments("crowd", "train.steps=60", f"train.global_batch={2 * ranks}",
                                                       "train.micro_batch=1", "memory.budget=256MiB", "comm.deadline=1")]],
                          capture_output=True, text=True, timeout=150)
    expect(done.returncode == 0, f"{done.returncode}: {done.stderr[-2000:]}")


def main():
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_text(folder / "text.txt")
    subprocess.run([plimsoll, "data", "prepare", folder / "text.txt", "--out", folder / "tokens", "--tokenizer", "byte"],
                   check=True, stdout=subprocess.DEVNULL)
    {"handshake": handshake, "hang": hang, "hang_mesh": hang_mesh, "hang_pipeline": hang_pipeline,
     "hang_evaluation": hang_evaluation, "hang_save": hang_save, "hang_load": hang_load, "oversubscribed": oversubscribed}[case]()


if __name__ == "__main__":
    main()

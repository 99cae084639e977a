"""What programs share that train small models as a user does: a folder with a text and a configuration, and runs in it."""

import json
import shutil
import subprocess
import sys

TEXT = "the ship is loaded to the line and no deeper\n" * 400


def call(*command, cwd=None):
    return subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=100, cwd=cwd)


def run(*command):
    done = call(*command)
    if done.returncode != 0:
        sys.exit(f"{command}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def sets(settings):
    return [part for s in settings for part in ("--set", s)]


def expect_near(name, got, want, tolerance=1e-5):
    for mine, theirs in zip(got, want, strict=True):
        if abs(mine - theirs) > tolerance * theirs:
            sys.exit(f"{name}: {got}, expected {want} within {tolerance}")


class Runs:
    """`config`: run.yaml, with {0} for the folder, which is made anew."""

    def __init__(self, plimsoll, folder, config):
        self.plimsoll, self.folder, self.config = plimsoll, folder, folder / "run.yaml"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / "text.txt").write_text(TEXT)
        run(plimsoll, "data", "prepare", folder / "text.txt", "--out", folder / "text", "--tokenizer", "char")
        self.config.write_text(config.format(folder))

    def read(self, name, file):
        return json.loads((self.folder / name / file).read_text())

    def train(self, name, settings, start=()):
        """Losses, then validation losses, of the run directory `name`; its arena was filled to the plan on every rank."""
        run(*start, self.plimsoll, "train", self.config, *sets([f"run.dir={self.folder / name}", *settings]))
        for rank in self.read(name, "summary.json")["ranks"]:
            if rank["planned_bytes"] != rank["arena_high_water_bytes"] or rank["allocations_after_first_step"] != 0:
                sys.exit(f"{name}: {rank}")
            if any(rank["measured_minus_planned_bytes"].values()):
                sys.exit(f"{name}: memory was not used as planned: {rank}")
        rows = [json.loads(line) for line in (self.folder / name / "metrics.jsonl").read_text().splitlines()]
        return [row[key] for key in ("loss", "validation_loss") for row in rows if key in row]

    def planned(self, ranks, settings):
        """By rank, what `plan` says that each holds."""
        report = json.loads(run(self.plimsoll, "plan", self.config, "--ranks", ranks, "--json", *sets(settings)))
        return {rank: role for role in report["roles"] for rank in role["ranks"]}

    def check_plan(self, name, ranks, settings):
        """`plan` and `train` agree to the byte on every rank, and so does plan.json."""
        by_rank = self.planned(ranks, settings)
        written = {rank: role for role in self.read(name, "plan.json")["roles"] for rank in role["ranks"]}
        summary = self.read(name, "summary.json")["ranks"]
        if [r["rank"] for r in summary] != list(range(ranks)) or sorted(by_rank) != list(range(ranks)) or sorted(written) != sorted(by_rank):
            sys.exit(f"{name}: ranks {summary}, planned {sorted(by_rank)}")
        for trained in summary:
            for role in (by_rank[trained["rank"]], written[trained["rank"]]):
                classes = {c: trained[c] for c in role["class_bytes"]}
                if role["planned_bytes"] != trained["planned_bytes"] or role["class_bytes"] != classes:
                    sys.exit(f"{name}: planned {role['planned_bytes']}, {role['class_bytes']}, trained with {trained}")
        return {rank: role["planned_bytes"] for rank, role in by_rank.items()}

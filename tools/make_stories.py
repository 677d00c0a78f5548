#!/usr/bin/env python3
"""Writes simple English stories from the grammar in tools/stories, one JSON string a line.

    python3 tools/make_stories.py --count 60000 --seed 1 --output stories.jsonl
    python3 tools/make_stories.py --count 3 --seed 5 --text          # to read a few

Story i of seed S depends on (S, i) alone, so the processes that share the work don't matter.
Stories that were already told are left out, so every line of one file differs.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import pathlib
import random
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from stories import plots_adventures, plots_friends, plots_things  # noqa: E402
from stories.grammar import Story  # noqa: E402
from stories.world import make_world, opening  # noqa: E402

PLOTS = plots_things.PLOTS + plots_friends.PLOTS + plots_adventures.PLOTS
# Plots that introduce the friend themselves.
FRIEND_IS_NEW = [plots_friends.quarrel, plots_friends.newcomer, plots_adventures.lost_child]


def tell(seed, index):
    """The text of story `index` of `seed`."""
    digest = hashlib.sha256(f"{seed}/{index}".encode()).digest()
    story = Story(random.Random(int.from_bytes(digest[:8], "little")))
    make_world(story)
    plot = story.pick(PLOTS)
    opening(story, friend_is_new=plot in FRIEND_IS_NEW)
    story.paragraph()
    plot(story)
    return story.text()


def tell_range(job):
    seed, begin, end = job
    return [tell(seed, index) for index in range(begin, end)]


def stories(seed, count, processes):
    """Yields `count` stories in order, without those that came before."""
    jobs = [(seed, begin, min(begin + 500, count)) for begin in range(0, count, 500)]
    seen = set()
    with multiprocessing.Pool(processes) as pool:
        for batch in pool.imap(tell_range, jobs):
            for text in batch:
                key = hash(text)
                if key not in seen:
                    seen.add(key)
                    yield text


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=60000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--output", type=pathlib.Path, help="default: standard output")
    parser.add_argument("--text", action="store_true", help="plain text, stories parted by a line")
    options = parser.parse_args()
    stream = options.output.open("w", encoding="utf-8") if options.output else sys.stdout
    with stream:
        for text in stories(options.seed, options.count, options.processes):
            stream.write(text + "\n\n---\n\n" if options.text else json.dumps(text) + "\n")


if __name__ == "__main__":
    main()

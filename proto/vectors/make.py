#!/usr/bin/env python3
"""Writes index.json and documents/ of this folder, byte for byte the same each time.

    python3 make.py            write into this folder
    python3 make.py --check    compare with what is there; exit 1 if anything differs
    python3 make.py DIR        write into DIR

Python 3.8 or newer, standard library only. The Ed25519 here is slow and leaks its secrets through
time; it is good for nothing but these vectors, whose private keys are SHA-256("phaseboot vector key NAME").
"""

import os
import sys

sys.dont_write_bytecode = True

from making import contents, envelopes, keylists, trust
from making.signing import text
from making.suite import DOCUMENTS, VECTORS

SECTIONS = (
    envelopes.what_is_accepted,
    envelopes.documents_that_are_none,
    envelopes.base64_forms,
    envelopes.envelopes,
    envelopes.signatures,
    trust.thresholds,
    trust.key_files,
    trust.limits,
    contents.copies,
    contents.contents,
    contents.machines,
    trust.policies,
    contents.plasmds_form,
    keylists.key_lists,
    keylists.packed_lists,
)


def built():
    """Every file of this folder that is made here, by its path."""
    for section in SECTIONS:
        section()
    made = {f"documents/{name}": content for name, content in DOCUMENTS.items()}
    made["index.json"] = text({"format": 1, "vectors": VECTORS})
    return made


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    made = built()
    if sys.argv[1:] == ["--check"]:
        there = {"index.json"} | {f"documents/{name}" for name in os.listdir(os.path.join(here, "documents"))}
        wrong = sorted(there ^ set(made))
        for path, content in made.items():
            if path in there:
                with open(os.path.join(here, path), "rb") as file:
                    if file.read() != content:
                        wrong.append(path)
        for path in wrong:
            print(f"differs: {path}")
        print(f"{len(made)} files, {len(wrong)} differ")
        sys.exit(1 if wrong else 0)
    folder = sys.argv[1] if len(sys.argv) > 1 else here
    os.makedirs(os.path.join(folder, "documents"), exist_ok=True)
    for path, content in made.items():
        with open(os.path.join(folder, path), "wb") as file:
            file.write(content)
    print(f"{len(VECTORS)} vectors, {len(DOCUMENTS)} documents")


if __name__ == "__main__":
    main()

"""Adapters as files: what a version is, where it lies, whether it may be served. The trainer imports this too.

There is one record for each version (version.py), which the reconciler alone changes (reconciler.py); requests read it.
Its states:

                  asked, sought            judged by its files        wanted in the engine          room
      STORED ───────────────────► FETCHING ─────────────────► HERE ─────────────────────► QUEUED ────────► LOADING
        ▲  ▲                        │    │                     │ nobody asks any more       │ nobody waits    │
        │  └────────────────────────┼────┼─────────────────────┘◄───────────────────────────┘ any more       │
        │                   content │    │ I/O                                                               │
        │                           ▼    ▼                                                                   │
        │                     REFUSED  UNREACHABLE ◄──────────────────── I/O ────────────────────────────────┤
        │                           │    │  FAILED ◄──────── did not load, or answered a probe otherwise ────┤
        │     the files changed     │    │    │                                                              │
        ├───────────────────────────┴────┴────┤ at `retry_at`: FETCHING again                                │
        │                                                                                       proven       ▼
        └───────────── unloaded ◄──── LEAVING ◄──── makes way, unnamed, or the engine died ───────────── SERVING

STORED: its files are in the store alone. HERE: they are on this machine. REFUSED is a verdict about content (digest,
keys, shapes, NaN, base, prompt): final until the files change, and kept on disk by (version, base, prompt, engine
build) like the proofs, so that the next start need not prove a version again (verdicts.py). UNREACHABLE and FAILED are
conditions, which do not become verdicts: tried again after 1 s, then after twice as long each time, at most 600 s. A
lost engine is no fault of a version: that is HERE, and loaded again when there is an engine.

A version is proven when somebody first asks for it. Where an alias moves to another version (routing.serve), that is
proven beside the old one, which answers meanwhile, if anybody uses the old one here; else the alias moves at once, and
whoever asks first has the new version proven. A new version that is refused or fails leaves the old one serving in both
cases: the one before it here, or the last of the alias's history in the store that is no worse, for all replicas alike.

    requests use       residency.Lease    routing.route: names to versions (pure)
    states change in   reconciler         version, verdicts, proof (manifest, modules, base)
    files are in       store              directory or bucket, own (copies and verdicts), aliases
    operators use      releases           change aliases, pin, prefetch, delete
"""

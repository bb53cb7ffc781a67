"""Adapters as files: what a version is, where it lies, whether it may be served. The trainer imports this too.

One record a version (version.py), moved by one reconciler (reconciler.py) and by nothing else; requests read what it
says and never write it:

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

REFUSED is a verdict about content (digest, keys, shapes, NaN, base, prompt): final until the files change, and kept on
disk by (version, base, prompt, engine build) with the proofs, so that a start proves nothing twice (verdicts.py).
UNREACHABLE and FAILED are conditions: tried again after 1 s, then twice as long each time, at most 600 s; no number of
them makes a verdict. A lost engine says nothing of a version: it is HERE, and loaded again when there is an engine.

A version is proven when somebody first asks for it. Where an alias moves to another version (routing.serve), that is
proven beside the old one, which answers meanwhile, if anybody uses the old one here; else the alias moves at once, and
whoever asks first has the new version proven. A new version that is refused or fails leaves the old one serving in both
cases: the one before it here, or the last of the alias's history in the store that is no worse, for all replicas alike.

    who asks     residency.Lease     routing.route    names to versions (pure)
    who moves    reconciler          version, verdicts, proof (manifest, modules, base)
    what lies    store               directory or bucket, own (copies and verdicts), aliases
    who changes  releases            the operator's levers
"""

"""A watcher of canaries: promotes them or rolls them back over HTTP, by rules on the figures of both versions.

    (no share) ──a share, and another version than stable's──> watched
    watched ──too little judged, no evidence, a replica away or behind, aliases changed meanwhile──> watched
    watched ──right more often──> promoted: stable leads to its version, the canary's share is 0
    watched ──right less often, fails more often, slower, or watched for longer than --longest-h──> rolled back: share 0
    promoted, but killed before the share was 0 ──> share 0

evidence.py is the statistical test, rules.py the decision, replicas.py the HTTP client, watch.py the loop. The watcher
keeps no state: one that is started again goes on from what the service tells. Two may run at once, since each changes
aliases only where they still have the tag that it saw.
"""

"""A watcher of canaries: it promotes or rolls back by rule, over HTTP, from what the service tells of both versions.

    (no share) ──a share, and another version than stable's──> watched
    watched ──too little judged, no evidence, a replica away or behind, aliases changed meanwhile──> watched
    watched ──right more often──> promoted: stable leads to its version, the canary's share is 0
    watched ──right less often, fails more often, slower, or watched for longer than --longest-h──> rolled back: share 0
    promoted, but killed before the share was 0 ──> share 0

evidence.py is the test, rules.py the decision, replicas.py what is asked and changed over HTTP, watch.py the loop.
The watcher keeps nothing itself: started again, it goes on from what the service tells, and two at once do no harm.
"""

"""An emulator of the Kubernetes API: enough of a kube-apiserver that the same tests pass on both.

A request comes in at `server`, `routing` says which resource and verb it means, `operations` applies the
semantics of writing (names, generations, finalizers), and `store` keeps the objects and the history that
`listing` and `watching` serve from. `execution` is pods/exec; `faults` and `admin` make it misbehave on demand.
"""

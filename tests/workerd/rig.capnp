# One workerd that is Cloudflare to walcast: D1's REST API on the socket `rest`, over databases that are files in the
# service `disk`.
using Workerd = import "/workerd/workerd.capnp";

const config :Workerd.Config = (
  services = [
    (name = "rig", worker = .rig),
    (name = "disk", disk = (writable = true)),
    # Nothing listens there: a request to it ends its client's connection without an answer.
    (name = "nobody", external = "127.0.0.1:1"),
  ],
  sockets = [
    (name = "rest", address = "127.0.0.1:0", http = (), service = "rig"),
  ],
);

const rig :Workerd.Worker = (
  modules = [
    (name = "rig.js", esModule = embed "rig.js"),
    (name = "rest.js", esModule = embed "rest.js"),
    (name = "control.js", esModule = embed "control.js"),
    (name = "databases.js", esModule = embed "databases.js"),
    (name = "database.js", esModule = embed "database.js"),
    (name = "registry.js", esModule = embed "registry.js"),
    (name = "limits.js", esModule = embed "limits.js"),
    (name = "faults.js", esModule = embed "faults.js"),
    (name = "ledger.js", esModule = embed "ledger.js"),
  ],
  compatibilityDate = "2026-03-01",
  durableObjectNamespaces = [
    (className = "Database", uniqueKey = "database", enableSql = true),
    (className = "Registry", uniqueKey = "registry", enableSql = true),
  ],
  durableObjectStorage = (localDisk = "disk"),
  bindings = [
    (name = "DATABASE", durableObjectNamespace = "Database"),
    (name = "REGISTRY", durableObjectNamespace = "Registry"),
    (name = "NOBODY", service = "nobody"),
  ],
);

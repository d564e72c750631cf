# One workerd that is Cloudflare to walcast: D1's REST API on the socket `rest`, the companion Worker with its D1
# bindings on the socket `worker`, both over the same databases, which are files in the service `disk`.
using Workerd = import "/workerd/workerd.capnp";

const config :Workerd.Config = (
  services = [
    (name = "rig", worker = .rig),
    (name = "worker", worker = .worker),
    (name = "disk", disk = (writable = true)),
    # Nothing listens there: a request to it ends its client's connection without an answer.
    (name = "nobody", external = "127.0.0.1:1"),
  ],
  sockets = [
    (name = "rest", address = "127.0.0.1:0", http = (), service = "rig"),
    (name = "worker", address = "127.0.0.1:0", http = (), service = (name = "rig", entrypoint = "Gate")),
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
    (name = "binding.js", esModule = embed "binding.js"),
    (name = "gate.js", esModule = embed "gate.js"),
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
    (name = "WORKER", service = "worker"),
    # Which database is behind which of the Worker's bindings.
    (name = "BINDINGS", json = "{\"DB_NA\": \"walcast-na\", \"DB_EU\": \"walcast-eu\", \"DB_ASIA\": \"walcast-asia\", \"DB_SA\": \"walcast-sa\", \"DB_OC\": \"walcast-oc\", \"DB_AF\": \"walcast-af\"}"),
  ],
);

# The file that operators deploy, unchanged, on D1's own client for bindings.
const worker :Workerd.Worker = (
  modules = [(name = "worker.js", esModule = embed "worker.js")],
  compatibilityDate = "2026-03-01",
  bindings = [
    (name = "WALCAST_KEY", fromEnvironment = "WALCAST_KEY"),
    (name = "WALCAST_KEY_PREVIOUS", fromEnvironment = "WALCAST_KEY_PREVIOUS"),
    (name = "DB_NA", wrapped = (
      moduleName = "cloudflare-internal:d1-api",
      innerBindings = [(name = "fetcher", service = (name = "rig", entrypoint = "Binding", props = (json = "\"DB_NA\"")))],
    )),
    (name = "DB_EU", wrapped = (
      moduleName = "cloudflare-internal:d1-api",
      innerBindings = [(name = "fetcher", service = (name = "rig", entrypoint = "Binding", props = (json = "\"DB_EU\"")))],
    )),
    (name = "DB_ASIA", wrapped = (
      moduleName = "cloudflare-internal:d1-api",
      innerBindings = [(name = "fetcher", service = (name = "rig", entrypoint = "Binding", props = (json = "\"DB_ASIA\"")))],
    )),
    (name = "DB_SA", wrapped = (
      moduleName = "cloudflare-internal:d1-api",
      innerBindings = [(name = "fetcher", service = (name = "rig", entrypoint = "Binding", props = (json = "\"DB_SA\"")))],
    )),
    (name = "DB_OC", wrapped = (
      moduleName = "cloudflare-internal:d1-api",
      innerBindings = [(name = "fetcher", service = (name = "rig", entrypoint = "Binding", props = (json = "\"DB_OC\"")))],
    )),
    (name = "DB_AF", wrapped = (
      moduleName = "cloudflare-internal:d1-api",
      innerBindings = [(name = "fetcher", service = (name = "rig", entrypoint = "Binding", props = (json = "\"DB_AF\"")))],
    )),
  ],
);

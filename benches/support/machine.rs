//! What figures are of.

/// The machine and the server, in one line.
pub fn machine(server_version: &str) -> String {
    let information = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = information.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!(
        "Machine: {cores} cores, {}. Postgres {server_version}, on the same machine.",
        model.map_or("unknown processor", |(_, model)| model)
    )
}

//! The machine as the system and the drivers report it: memory, and a GPU's name and place.

use burn::tensor::Device;

/// Peak resident memory of this process in MiB, where the system reports it (Linux).
pub(crate) fn peak_memory_mib() -> Option<u64> {
    proc_mib("/proc/self/status", "VmHWM:")
}

/// The machine's memory in MiB, where the system reports it (Linux, macOS).
pub(crate) fn host_memory_mib() -> Option<u64> {
    if cfg!(target_os = "macos") {
        let output = std::process::Command::new("sysctl")
            .args(["-n", "hw.memsize"])
            .output()
            .ok()?;
        return Some(
            String::from_utf8_lossy(&output.stdout)
                .trim()
                .parse::<u64>()
                .ok()?
                >> 20,
        );
    }
    proc_mib("/proc/meminfo", "MemTotal:")
}

/// The memory in MiB that programs can still get, where the system reports it (Linux).
pub(crate) fn available_memory_mib() -> Option<u64> {
    proc_mib("/proc/meminfo", "MemAvailable:")
}

/// Files that this process may have open at once, where the system reports it (Linux).
pub(crate) fn open_files() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The free and the whole space of the disk behind a folder, in MiB, as `df` reports them.
pub(crate) fn disk_mib(folder: &std::path::Path) -> Option<(u64, u64)> {
    let output = std::process::Command::new("df")
        .arg("-Pk")
        .arg(folder)
        .output()
        .ok()?;
    of_df(&String::from_utf8_lossy(&output.stdout))
}

/// Free and whole space from the line of `df -Pk` behind its header.
fn of_df(text: &str) -> Option<(u64, u64)> {
    let mut words = text.lines().nth(1)?.split_whitespace().skip(1);
    let whole: u64 = words.next()?.parse().ok()?;
    let free: u64 = words.nth(1)?.parse().ok()?;
    Some((free / 1024, whole / 1024))
}

/// A field, in MiB, of a file of Linux's `/proc` that gives it in KiB.
fn proc_mib(file: &str, field: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(field))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib / 1024)
}

/// The hardware's name and, for a card on a bus, its PCI address, where the backend reports them.
#[cfg(any(
    feature = "wgpu",
    feature = "vulkan",
    feature = "metal",
    feature = "cuda",
    feature = "rocm"
))]
pub(crate) fn identity(device: &Device) -> Option<(String, Option<String>)> {
    let identity = device.identity()?;
    let address = identity.physical.and_then(|card| card.pci_address);
    Some((identity.name, address.map(|address| address.to_string())))
}

#[cfg(not(any(
    feature = "wgpu",
    feature = "vulkan",
    feature = "metal",
    feature = "cuda",
    feature = "rocm"
)))]
pub(crate) fn identity(_: &Device) -> Option<(String, Option<String>)> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_free_space_is_in_the_fourth_column() {
        let text = "Filesystem 1024-blocks Used Available Capacity Mounted on\noverlay 104857600 31457280 73400320 30% /\n";
        assert_eq!(of_df(text), Some((71680, 102_400)));
        assert_eq!(of_df("df: x: No such file\n"), None);
    }
}

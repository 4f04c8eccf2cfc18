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

//! Decodes image files for `scripts/parity/jpeg_difference.py`: each file named on the command line gives
//! width and height (two little-endian u32) and its RGB bytes on stdout.

use std::io::Write;

use data::{DecodeLimits, decode};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut out = std::io::stdout().lock();
    for path in std::env::args().skip(1) {
        let image = decode(&std::fs::read(&path)?, &DecodeLimits::DEFAULT)
            .map_err(|error| format!("{path}: {error}"))?;
        out.write_all(&image.width.to_le_bytes())?;
        out.write_all(&image.height.to_le_bytes())?;
        out.write_all(&image.pixels)?;
    }
    Ok(())
}

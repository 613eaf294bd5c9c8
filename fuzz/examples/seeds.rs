//! Writes the good inputs of every target to `corpus/TARGET/`.

use std::path::Path;

fn main() -> std::io::Result<()> {
    for name in slipway_fuzz::names() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
        std::fs::create_dir_all(&dir)?;
        for (n, seed) in slipway_fuzz::seeds(name).into_iter().enumerate() {
            std::fs::write(dir.join(format!("seed-{n}")), seed)?;
        }
    }
    Ok(())
}

//! Compiles `lockd.v1` with protox, so that building this crate needs no `protoc`.

use std::{env, fs, path::PathBuf};

use prost::Message as _;

const PROTOS: [&str; 5] = [
    "lockd/v1/admin.proto",
    "lockd/v1/error.proto",
    "lockd/v1/identity.proto",
    "lockd/v1/lock.proto",
    "lockd/v1/session.proto",
];

fn main() -> anyhow::Result<()> {
    println!("cargo:rerun-if-changed=lockd");
    let descriptors = protox::compile(PROTOS, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("lockd.v1.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .codec_path("crate::codec::SmallBuffers")
        .compile_fds(descriptors)?;
    Ok(())
}

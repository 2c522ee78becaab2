//! Debian's Prometheus, on loopback, with a directory of its own.

use super::{Outcomes, until};
use std::{
    fs::{self, File},
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
};
use tempfile::TempDir;

/// A running Prometheus; ends with the test.
pub struct Prometheus {
    child: Child,
    address: String,
    directory: TempDir,
}

impl Prometheus {
    /// Scrapes that address (`127.0.0.1:9780`) every second.
    pub fn scraping(target: &str) -> Outcomes<Self> {
        let failed = |error: std::io::Error| format!("prometheus (Debian: prometheus): {error}");
        let directory = tempfile::tempdir().map_err(failed)?;
        let config = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\n\
             scrape_configs:\n- job_name: leaktrace\n  static_configs: [{{targets: ['{target}']}}]\n"
        );
        fs::write(directory.path().join("prometheus.yml"), config).map_err(failed)?;
        let log = File::create(directory.path().join("log")).map_err(failed)?;
        let child = Command::new("prometheus")
            .args([
                "--config.file=prometheus.yml",
                "--storage.tsdb.path=data",
                "--web.listen-address=127.0.0.1:0",
            ])
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(failed)?;
        let mut prometheus = Self { child, address: String::new(), directory };
        prometheus.address = until(|| prometheus.listening())?;
        Ok(prometheus)
    }

    /// Waits until the answer to a query has a value that is wanted; gives all of the answer's series.
    pub fn await_query(
        &self,
        query: &str,
        wanted: impl Fn(&serde_json::Value) -> bool,
    ) -> Outcomes<Vec<serde_json::Value>> {
        until(|| {
            let series = self.query(query)?;
            match series.iter().any(&wanted) {
                true => Ok(series),
                false => Err(format!("{query}: {series:?}; log: {}", self.log())),
            }
        })
    }

    /// The series that a query gives.
    pub fn query(&self, query: &str) -> Outcomes<Vec<serde_json::Value>> {
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let body = get(&self.address, &format!("/api/v1/query?query={encoded}"))?;
        let answer: serde_json::Value =
            serde_json::from_str(&body).map_err(|error| format!("{error}: {body}"))?;
        let series = answer["data"]["result"].as_array().cloned();
        series.ok_or_else(|| format!("{query}: {body}"))
    }

    fn listening(&self) -> Outcomes<String> {
        let log = self.log();
        let line = log.lines().find(|line| line.contains("msg=\"Listening on\""));
        let address =
            line.and_then(|line| line.split("address=").nth(1)).map(|address| address.trim().to_owned());
        address.ok_or_else(|| format!("prometheus does not listen: {log}"))
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Fails if promtool finds anything to complain about in a text of metrics.
pub fn check_metrics(text: &str, directory: &Path) -> Outcomes<()> {
    let file = directory.join("metrics");
    fs::write(&file, text).map_err(|error| error.to_string())?;
    let input = File::open(&file).map_err(|error| error.to_string())?;
    let output = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(input)
        .output()
        .map_err(|error| format!("promtool (Debian: prometheus): {error}"))?;
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    // It warns with status 0.
    if !output.status.success() || !said.trim().is_empty() {
        return Err(format!("promtool: {said}\n{text}"));
    }
    Ok(())
}

fn get(address: &str, path: &str) -> Outcomes<String> {
    let failed = |error: std::io::Error| format!("{address}: {error}");
    let mut stream = TcpStream::connect(address).map_err(failed)?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").map_err(failed)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(failed)?;
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).ok_or(answer)
}

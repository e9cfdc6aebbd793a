//! iperf3's numbers, and the table of two runs side by side. Pure.

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use std::fmt::Write as _;

/// What one run of iperf3 came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Measured {
    pub(super) received_bits_per_second: f64,
    pub(super) sent_bytes: f64,
    pub(super) retransmitted_segments: u64,
}

/// Reads the object that `iperf3 --json` printed.
pub(super) fn parse(text: &str) -> Result<Measured> {
    let start = text.find('{').context("iperf3 printed no JSON")?;
    let mut values = serde_json::Deserializer::from_str(&text[start..]).into_iter::<Value>();
    let value = values.next().context("iperf3 printed no JSON")?.context("iperf3 printed broken JSON")?;
    if let Some(error) = value["error"].as_str() {
        bail!("iperf3: {error}");
    }
    let number = |side: &str, key: &str| {
        value["end"][side][key].as_f64().with_context(|| format!("iperf3 did not say end.{side}.{key}"))
    };
    Ok(Measured {
        received_bits_per_second: number("sum_received", "bits_per_second")?,
        sent_bytes: number("sum_sent", "bytes")?,
        retransmitted_segments: number("sum_sent", "retransmits")? as u64,
    })
}

/// Name of the row that shows the loss.
const SENT_AGAIN: &str = "segments sent again";

/// Both runs side by side.
pub(super) fn table(without: &Measured, with: &Measured, fault: &str) -> String {
    let rows = [
        ("throughput", rate(without.received_bits_per_second), rate(with.received_bits_per_second)),
        ("bytes sent", mebibytes(without.sent_bytes), mebibytes(with.sent_bytes)),
        (SENT_AGAIN, without.retransmitted_segments.to_string(), with.retransmitted_segments.to_string()),
    ];
    let mut text = format!("{:20}  {:>16}  {:>16}\n", "iperf3", "without fault", fault);
    for (name, left, right) in rows {
        let _ = writeln!(text, "{name:20}  {left:>16}  {right:>16}");
    }
    text
}

/// The segments sent again without and with the fault, from the lines of a table.
pub(super) fn sent_again(lines: &[String]) -> Option<(u64, u64)> {
    let row = lines.iter().find_map(|line| line.strip_prefix(SENT_AGAIN))?;
    let mut numbers = row.split_whitespace().map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn rate(bits_per_second: f64) -> String {
    format!("{:.1} Mbit/s", bits_per_second / 1e6)
}

fn mebibytes(bytes: f64) -> String {
    format!("{:.1} MiB", bytes / 1_048_576.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sums_are_read() {
        let text = r#"note {"end":{"sum_sent":{"bytes":2097152,"retransmits":17},"sum_received":{"bits_per_second":1500000.0}}} {"outcome":"completed"}"#;
        let text = text.trim_start_matches("note ");
        let measured = parse(text).unwrap();
        assert_eq!(measured.retransmitted_segments, 17);
        let table = table(&measured, &measured, "network.loss=5%");
        assert!(table.contains("1.5 Mbit/s") && table.contains("2.0 MiB"), "{table}");
    }

    #[test]
    fn what_the_table_shows_of_the_loss_can_be_read_again() {
        let of = |retransmitted_segments| Measured {
            received_bits_per_second: 1.0,
            sent_bytes: 1.0,
            retransmitted_segments,
        };
        let table = table(&of(3), &of(1250), "network.loss=5%");
        let lines: Vec<String> = table.lines().map(str::to_owned).collect();
        assert_eq!(sent_again(&lines), Some((3, 1250)));
        assert_eq!(sent_again(&lines[..2]), None);
    }

    #[test]
    fn an_error_of_iperf3_is_passed_on() {
        let error = parse(r#"{"end":{},"error":"unable to connect to server"}"#).unwrap_err();
        assert_eq!(error.to_string(), "iperf3: unable to connect to server");
    }
}

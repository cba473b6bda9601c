//! `jobmill info`.

use super::{
    Global, connect,
    exit::{Exit, Failure},
    json,
    table::{Table, plain},
    text,
    ui::Ui,
};
use jobmill::{
    client::from_wire_timestamp,
    clock::{Stopwatch, Timestamp},
    proto::v1::{GetServerInfoResponse, Grant},
};

pub(super) async fn run(global: &Global, ui: &Ui) -> Result<Exit, Failure> {
    let client = connect(global).await?;
    let asked = ui.clock.now();
    let watch = Stopwatch::start();
    let info = client.server_info().await?;
    // The server read its clock at some moment during the call. The middle is the best estimate, off by half at most.
    let doubt = watch.elapsed() / 2;
    let here = asked.after(doubt);
    let clock = info.time.as_ref().map(|time| Difference {
        micros: from_wire_timestamp(time).as_micros() - here.as_micros(),
        doubt_micros: doubt.as_micros() as i64,
    });
    if ui.is_json() {
        let mut object = json::server(&info);
        if let Some(clock) = clock {
            object.insert("clockDifference".to_owned(), clock.on_wire().to_string().into());
        }
        ui.print_json(&object.into())?;
    } else {
        ui.print(&page(client.endpoint(), &info, clock, ui.colour))?;
    }
    Ok(Exit::Ok)
}

/// The difference of the server's clock from the local one, positive where it is ahead.
#[derive(Clone, Copy, Debug)]
struct Difference {
    micros: i64,
    /// Uncertainty of `micros`.
    doubt_micros: i64,
}

impl Difference {
    fn on_wire(self) -> prost_types::Duration {
        let (seconds, micros) = (self.micros / 1_000_000, self.micros % 1_000_000);
        prost_types::Duration { seconds, nanos: micros as i32 * 1_000 }
    }

    fn in_words(self) -> String {
        // A difference of up to a millisecond beyond the uncertainty is not worth showing.
        if self.micros.abs() <= self.doubt_micros + 1_000 {
            return "as the local clock".to_owned();
        }
        let difference = text::duration(std::time::Duration::from_micros(self.micros.unsigned_abs()));
        let way = if self.micros > 0 { "ahead of" } else { "behind" };
        format!("{difference} {way} the local clock")
    }
}

fn page(endpoint: &str, info: &GetServerInfoResponse, clock: Option<Difference>, colour: bool) -> String {
    let mut fields = vec![
        ("server", text::escape(endpoint).into_owned()),
        ("version", text::escape(&info.version).into_owned()),
        ("store id", text::escape(&info.store_id).into_owned()),
    ];
    if let (Some(time), Some(clock)) = (&info.time, clock) {
        let time: Timestamp = from_wire_timestamp(time);
        fields.push(("time", format!("{time} ({})", clock.in_words())));
    }
    if info.subject.is_empty() && info.grants.is_empty() {
        fields.push(("you may", "do everything: the server asks for no tokens".to_owned()));
    } else {
        fields.push(("you are", text::escape(&info.subject).into_owned()));
        fields.extend(text::listed("you may", info.grants.iter().map(grant)));
    }
    if !info.time_zone_database.is_empty() {
        fields.push(("time zones", text::escape(&info.time_zone_database).into_owned()));
    }
    fields.extend(text::listed("features", info.features.iter().map(|name| text::escape(name).into_owned())));
    let mut page = text::fields(fields);
    let mut limits = Table::new(["LIMIT", "VALUE"], colour).numbers([1]);
    for limit in &info.limits {
        limits.row([plain(text::escape(&limit.name)), plain(limit.value.to_string())]);
    }
    page.push('\n');
    page.push_str(&limits.render());
    page
}

fn grant(grant: &Grant) -> String {
    let queues: Vec<_> = grant.queues.iter().map(|queue| text::escape(queue)).collect();
    format!("{} on {}", text::escape(&grant.role), queues.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use jobmill::{client::to_wire_timestamp, proto::v1::ServerLimit};

    fn info() -> GetServerInfoResponse {
        let limit = |name: &str, value| ServerLimit { name: name.into(), value };
        GetServerInfoResponse {
            version: "0.1.0".into(),
            store_id: "9f1c3a52-5d0b-4b7e-8a53-2f6f0c1f7d11".into(),
            features: vec!["filter-done".into(), "wait".into()],
            limits: vec![limit("batch_jobs", 1_000), limit("payload_bytes", 1 << 20)],
            time: Some(to_wire_timestamp(Timestamp::from_micros(1_767_323_045_500_000))),
            subject: "mailer\u{1b}".into(),
            grants: vec![
                Grant { role: "submit".into(), queues: vec!["mail*".into(), "sms".into()] },
                Grant { role: "read".into(), queues: vec!["*".into()] },
            ],
            time_zone_database: "2025b".into(),
        }
    }

    #[test]
    fn a_server_on_a_page() {
        let ahead = Difference { micros: 62_500_000, doubt_micros: 400 };
        insta::assert_snapshot!(page("http://127.0.0.1:7733", &info(), Some(ahead), false), @r"
        server        http://127.0.0.1:7733
        version       0.1.0
        store id      9f1c3a52-5d0b-4b7e-8a53-2f6f0c1f7d11
        time          2026-01-02T03:04:05.5Z (1m 2s ahead of the local clock)
        you are       mailer\x1b
        you may       submit on mail*, sms
                      read on *
        time zones    2025b
        features      filter-done
                      wait

        LIMIT            VALUE
        batch_jobs        1000
        payload_bytes  1048576
        ");
        let open = GetServerInfoResponse { subject: String::new(), grants: Vec::new(), ..info() };
        let page = page("x", &open, None, false);
        assert!(page.contains("you may       do everything"), "{page}");
    }

    #[test]
    fn a_server_in_json() {
        let object = serde_json::Value::from(json::server(&info()));
        insta::assert_snapshot!(serde_json::to_string_pretty(&object).unwrap(), @r#"
        {
          "features": [
            "filter-done",
            "wait"
          ],
          "grants": [
            {
              "queues": [
                "mail*",
                "sms"
              ],
              "role": "submit"
            },
            {
              "queues": [
                "*"
              ],
              "role": "read"
            }
          ],
          "limits": [
            {
              "name": "batch_jobs",
              "value": 1000
            },
            {
              "name": "payload_bytes",
              "value": 1048576
            }
          ],
          "storeId": "9f1c3a52-5d0b-4b7e-8a53-2f6f0c1f7d11",
          "subject": "mailer\u001b",
          "time": "2026-01-02T03:04:05.500Z",
          "version": "0.1.0"
        }
        "#);
    }

    #[test]
    fn clocks_are_compared_as_well_as_one_can_tell() {
        for (micros, doubt_micros, words, wire) in [
            (0, 0, "as the local clock", "0s"),
            (-20_000, 25_000, "as the local clock", "-0.020s"),
            (-20_000, 1_000, "20ms behind the local clock", "-0.020s"),
            (2_500_000, 1_000, "2.5s ahead of the local clock", "2.500s"),
            (-2_500_000, 1_000, "2.5s behind the local clock", "-2.500s"),
        ] {
            let difference = Difference { micros, doubt_micros };
            assert_eq!(difference.in_words(), words, "{micros}");
            assert_eq!(difference.on_wire().to_string(), wire, "{micros}");
        }
    }
}

//! Prometheus reads the metrics of machines, and evaluates every expression of the dashboard in `contrib/grafana`.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::{Host, LONG};

const DASHBOARD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/contrib/grafana/coracle.json");
const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/callers/metrics");

/// Collects the values of a key in a document.
fn values<'a>(document: &'a Value, key: &str, found: &mut Vec<&'a str>) {
    match document {
        Value::Object(map) => map.iter().for_each(|(name, value)| match value {
            Value::String(text) if name == key => found.push(text),
            other => values(other, key, found),
        }),
        Value::Array(items) => items.iter().for_each(|item| values(item, key, found)),
        _ => {}
    }
}

/// Returns the names of metrics in an expression.
fn metrics(expression: &str) -> BTreeSet<&str> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("coracle_")).collect()
}

/// Returns the expressions of the dashboard with the variables that Grafana replaces.
fn expressions() -> Vec<String> {
    let text = std::fs::read_to_string(DASHBOARD).expect("the dashboard");
    let dashboard: Value = serde_json::from_str(&text).expect("JSON");
    let mut found = Vec::new();
    values(&dashboard, "expr", &mut found);
    let replace = |expression: &&str| {
        let expression = expression.replace("$__rate_interval", "20s");
        expression.replace("$instance", ".*").replace("$machine", ".*")
    };
    let found: Vec<String> = found.iter().map(replace).collect();
    assert!(found.len() > 15 && found.iter().all(|expression| !expression.contains('$')), "{found:?}");
    found
}

/// Starts Prometheus and the collector on a host with a running and a stopped machine.
fn host() -> Host {
    let builder = Host::builder().on("host-callers-tools").bind(SOURCES, "/srv/metrics");
    let host = builder.guest("busybox").guest_as("busybox", "other").start();
    host.start_machine("busybox");
    host.sh_ok(
        "cp /usr/share/doc/coracle/examples/coracle-metrics.* /etc/systemd/system/
         sed -i 's/^OnUnitActiveSec=.*/OnUnitActiveSec=1/' /etc/systemd/system/coracle-metrics.timer
         cp /srv/metrics/prometheus.yml /etc/prometheus/prometheus.yml
         systemctl daemon-reload
         systemd-run -q --unit=openmetrics python3 /srv/metrics/openmetrics.py
         systemctl enable -q --now coracle-metrics.timer prometheus-node-exporter prometheus",
    );
    host
}

/// Returns the lines that Prometheus answers to an instant query.
fn query(host: &Host, expression: &str) -> String {
    host.exec(&["promtool", "query", "instant", "http://127.0.0.1:9090", expression])
        .success(expression)
        .stdout
}

#[test]
fn promtool_finds_nothing_wrong_with_the_metrics() {
    let host = Host::builder().on("host-callers-tools").guest("busybox").guest_as("busybox", "other").start();
    host.start_machine("busybox");
    let checked = host.sh("coracle stats --metrics=prometheus | promtool check metrics 2>&1");
    assert!(checked.status == 0 && checked.stdout.is_empty(), "{checked}");
    host.stop();
}

#[test]
fn prometheus_evaluates_all_expressions_of_the_dashboard() {
    let host = host();
    let ask = "promtool query instant http://127.0.0.1:9090";
    // Two samples make a rate.
    let rate = "count_over_time(coracle_cpu_seconds_total{machine=\"busybox\",job=\"node\"}[1m]) > 4";
    host.wait_until(LONG, &format!("{ask} '{rate}' | grep busybox"));
    host.wait_until(LONG, &format!("{ask} 'up{{job=\"openmetrics\"}} == 1' | grep openmetrics"));

    let text = host.coracle(&["stats", "--metrics=prometheus"]);
    let known: BTreeSet<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let has_samples = |metric: &&str| text.contains(&format!("\n{metric}{{"));
    for expression in expressions() {
        let used = metrics(&expression);
        assert!(!used.is_empty() && used.is_subset(&known), "{expression} of {known:?}");
        let answer = query(&host, &expression);
        eprintln!("{expression}\n{answer}");
        // The kernel of this host does not count everything, and swap is shown if there is any.
        if used.iter().all(has_samples) && !expression.contains('>') {
            assert!(answer.contains("=>"), "no answer to {expression}");
        }
    }
    let states = query(&host, "coracle_machine_state{job=\"node\"} == 1");
    for (machine, state) in [("busybox", "running"), ("other", "stopped")] {
        let line = states.lines().find(|line| line.contains(&format!("machine=\"{machine}\"")));
        assert!(line.is_some_and(|line| line.contains(&format!("state=\"{state}\""))), "{states}");
    }
    // Both formats arrive as the same metrics, with their types.
    for job in ["node", "openmetrics"] {
        let samples = query(&host, &format!("count({{__name__=~\"coracle_.*\",job=\"{job}\"}})"));
        assert!(samples.contains("=>"), "{job}: {samples}");
    }
    let types = host.sh_ok("python3 -c 'import sys, urllib.request; print(urllib.request.urlopen(\"http://127.0.0.1:9090/api/v1/metadata?metric=coracle_cpu_seconds_total\").read().decode())'");
    assert!(types.contains("\"type\":\"counter\""), "{types}");
    // The variables of the dashboard.
    let labels = query(&host, "count by (instance, machine) (coracle_machine_state{instance=~\".*\"})");
    assert!(
        labels.contains("instance=\"127.0.0.1:9100\"") && labels.contains("machine=\"other\""),
        "{labels}"
    );
    host.stop();
}

//! The operator's port of a role: `/metrics` for a collector, `/healthz` for whoever restarts things.

use std::io;
use std::net::TcpListener;

use netlib::http::{self, Response, ServerOptions};
use netlib::{Context, Listener, Stats};
use prometheus_client::metrics::gauge::Gauge;

use crate::metrics::Metrics;
use crate::process::ProcessGauges;

/// Serves both on a bound listener. `health` says why the role does not serve, if so; the answer is then 503
/// with that text.
pub fn serve<S: 'static>(
    cx: &mut Context<S>,
    socket: TcpListener,
    metrics: Metrics,
    mut health: impl FnMut(&mut S) -> Result<(), String> + 'static,
) -> io::Result<Listener> {
    let (reactor, process) = (ReactorGauges::registered(&metrics), ProcessGauges::registered(&metrics));
    http::serve(cx, socket, ServerOptions::default(), move |state, cx, request| match request.path() {
        "/metrics" => {
            reactor.show(&cx.stats());
            process.show();
            reply(200, "application/openmetrics-text; version=1.0.0; charset=utf-8", metrics.encode())
        }
        "/healthz" => match health(state) {
            Ok(()) => reply(200, PLAIN, "ok\n".to_owned()),
            Err(why) => reply(503, PLAIN, format!("{why}\n")),
        },
        _ => reply(404, PLAIN, "/metrics and /healthz are here\n".to_owned()),
    })
}

/// What the role's reactor counts by itself, copied when somebody asks.
#[derive(Default)]
struct ReactorGauges {
    connections: Gauge,
    refused: Gauge,
    accept_rests: Gauge,
    panics: Gauge,
}

impl ReactorGauges {
    fn registered(metrics: &Metrics) -> Self {
        let gauges = Self::default();
        for (name, help, gauge) in [
            ("reactor_connections", "Connections alive, lingering ones included", &gauges.connections),
            ("reactor_refused", "Connections closed over a listener's limit", &gauges.refused),
            ("reactor_accept_rests", "Times that accepting rested for want of descriptors", &gauges.accept_rests),
            ("reactor_panics", "Handlers that panicked", &gauges.panics),
        ] {
            metrics.register(name, help, gauge.clone());
        }
        gauges
    }

    fn show(&self, stats: &Stats) {
        self.connections.set(stats.connections as i64);
        self.refused.set(stats.refused as i64);
        self.accept_rests.set(stats.accept_rests as i64);
        self.panics.set(stats.panics as i64);
    }
}

const PLAIN: &str = "text/plain; charset=utf-8";

fn reply(status: u16, content_type: &str, body: String) -> Response {
    Response::new(status).header("Content-Type", content_type).body(body)
}

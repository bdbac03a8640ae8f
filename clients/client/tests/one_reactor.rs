//! Several sessions in one reactor, driven by callbacks.

mod fake;

use std::thread;

use fake::Fake;
use netlib::{Context, Reactor, ReactorConfig};
use tt_client::request::SendText;
use tt_client::{Error, Event, Session};

#[derive(Default)]
struct State {
    sessions: Vec<Session<State>>,
    acknowledged: Vec<(usize, u32)>,
    closed: usize,
}

fn on_event(number: usize) -> impl FnMut(&mut State, &mut Context<State>, Event) {
    move |state, cx, event| match event {
        Event::Online { .. } => {
            let session = state.sessions[number].clone();
            assert!(session.is_online());
            let text = SendText::new(2, "hello").unwrap();
            session.clone().ask(cx, text, fake::LIMIT, move |state: &mut State, cx, sent| {
                state.acknowledged.push((number, sent.unwrap().msg_id));
                session.close(cx);
            });
        }
        Event::Closed(error) => {
            assert_eq!(error, Error::Closed);
            state.closed += 1;
            if state.closed == state.sessions.len() {
                cx.stop();
            }
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn sessions_in_one_reactor_do_not_mix() {
    let servers = [Fake::new(), Fake::new()];
    let options = servers.each_ref().map(Fake::options);
    let scripts = servers.into_iter().zip([10, 20]).map(|(server, msg_id)| {
        thread::spawn(move || {
            let mut link = server.sign_in();
            link.ack(msg_id);
            link.until_closed();
        })
    });
    let scripts: Vec<_> = scripts.collect();
    let mut reactor = Reactor::new(ReactorConfig::default()).unwrap();
    let mut state = State::default();
    for (number, options) in options.into_iter().enumerate() {
        let session = Session::open(reactor.context(), options, on_event(number));
        state.sessions.push(session);
    }
    reactor.run(&mut state).unwrap();
    state.acknowledged.sort_unstable();
    assert_eq!(state.acknowledged, [(0, 10), (1, 20)]);
    for script in scripts {
        script.join().unwrap();
    }
}

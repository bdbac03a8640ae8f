//! What the contract at the head of `netlib::backend` promises, asked of every back end with
//! every trigger it offers. What comes out is the table in `docs/backends.md`.

mod readiness;
mod registration;
mod subject;
mod table;
mod waiting;

use netlib::backend::{BackendKind, Trigger};

use subject::{Outcome, Subject, say};

/// Hands the list of all promises to another macro.
macro_rules! with_all_promises {
    ($then:ident $($context:tt)*) => {
        $then! { ($($context)*)
            registration::registering_twice_is_an_error
            registration::an_unknown_descriptor_is_an_error
            registration::a_trigger_that_is_not_offered_is_refused
            registration::what_cannot_be_polled_is_refused
            registration::a_descriptor_above_1023_is_like_any_other
            registration::ten_thousand_descriptors_are_told_apart
            registration::nothing_is_reported_after_remove
            registration::the_peer_sees_the_end_as_soon_as_a_removed_descriptor_is_closed
            registration::a_descriptor_that_was_closed_unremoved_is_forgotten
            registration::a_descriptor_closed_unremoved_is_really_closed
            registration::a_reused_descriptor_is_told_apart_by_its_generation
            registration::changes_inside_a_batch_apply_to_the_next_wait
            registration::what_was_queued_for_an_old_registration_is_not_reported
            registration::of_several_waiters_for_a_listener_one_is_woken
            readiness::what_is_readable_already_is_reported_after_add
            readiness::what_is_readable_already_is_reported_after_modify
            readiness::a_reader_that_resumes_learns_of_what_came_meanwhile
            readiness::both_directions_are_told_apart
            readiness::both_directions_are_reported_at_once
            readiness::a_full_stream_becomes_writable_when_the_peer_reads
            readiness::only_what_was_asked_for_is_reported
            readiness::the_trigger_reports_as_often_as_it_should
            readiness::what_another_reader_took_is_a_false_alarm_at_worst
            readiness::a_half_close_behind_data_is_reported_with_it
            readiness::a_half_close_does_not_wake_a_paused_reader
            readiness::a_reset_is_an_error_that_both_directions_see
            readiness::urgent_data_is_reported_and_passes_when_read
            readiness::no_interest_is_silent_whatever_happens
            waiting::a_wait_that_finds_nothing_lasts_at_least_as_long_as_asked
            waiting::a_wait_replaces_the_previous_batch
            waiting::a_batch_of_any_size_is_delivered_in_full
            waiting::another_thread_ends_a_wait_without_limit
            waiting::a_signal_ends_a_wait_and_loses_nothing
            waiting::another_loop_can_watch_this_one
        }
    };
}
use with_all_promises;

/// One test per promise, for one back end with one trigger.
macro_rules! tests {
    (($kind:ident $trigger:ident) $($room:ident::$name:ident)*) => {
        $(#[test]
        fn $name() {
            check(stringify!($name), BackendKind::$kind, Trigger::$trigger, $room::$name);
        })*
    };
}

macro_rules! instantiate {
    ($($module:ident: $kind:ident with $trigger:ident;)*) => {
        $(mod $module {
            use super::*;
            with_all_promises!(tests $kind $trigger);
        })*
        /// The columns of the table.
        const SUBJECTS: &[(BackendKind, Trigger)] = &[$((BackendKind::$kind, Trigger::$trigger)),*];
    };
}

instantiate! {
    mio_edge: Mio with Edge;
    epoll_lt_level: EpollLt with Level;
    epoll_lt_edge: EpollLt with Edge;
    epoll_lt_one_shot: EpollLt with OneShot;
    epoll_et_edge: EpollEt with Edge;
    poll_level: Poll with Level;
    poll_one_shot: Poll with OneShot;
    select_level: Select with Level;
    select_one_shot: Select with OneShot;
    uring_poll_level: UringPoll with Level;
    uring_poll_edge: UringPoll with Edge;
    uring_poll_one_shot: UringPoll with OneShot;
    uring_level: Uring with Level;
    uring_edge: Uring with Edge;
    uring_one_shot: Uring with OneShot;
}

fn ask(kind: BackendKind, trigger: Trigger, promise: fn(Subject) -> Outcome) -> Outcome {
    match Subject::open(kind, trigger) {
        Ok(subject) => promise(subject),
        Err(skipped) => skipped,
    }
}

fn check(name: &str, kind: BackendKind, trigger: Trigger, promise: fn(Subject) -> Outcome) {
    if let Outcome::Skipped(why) = ask(kind, trigger, promise) {
        say(&format!("SKIPPED {name} on {kind} ({trigger:?}): {why}"));
    }
}

#[test]
fn every_kind_opens_under_its_own_name_and_offers_its_default_trigger() {
    for kind in BackendKind::ALL {
        let Ok(subject) = Subject::open(kind, kind.default_trigger()) else {
            say(&format!("SKIPPED every_kind_opens on {kind}: the kernel refuses it"));
            continue;
        };
        assert_eq!(subject.backend.name(), kind.name());
        assert_eq!(kind.name().parse(), Ok(kind));
        let caps = subject.backend.caps();
        assert!(match kind.default_trigger() {
            Trigger::Level => caps.level,
            Trigger::Edge => caps.edge,
            Trigger::OneShot => caps.one_shot,
        });
        say(&format!("runs on the back end {kind}"));
    }
}

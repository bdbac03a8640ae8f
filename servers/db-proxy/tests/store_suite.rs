//! The embedded store, held to the suite that every store is held to.

mod suite;

use tt_db_proxy::store::embedded::Embedded;

/// One test per function of the suite, each on a fresh store.
macro_rules! embedded {
    ($($name:ident)*) => {$(
        #[test]
        fn $name() {
            let home = tempfile::tempdir().expect("a directory");
            let store = Embedded::open(home.path()).expect("open");
            suite::$name(&store);
        }
    )*};
}

embedded! {
    g1_an_acknowledged_message_is_in_the_history_of_both
    g2_the_same_client_id_is_the_same_message
    g2_a_repetition_within_one_batch_is_one_message
    g2_the_same_client_id_with_other_content_is_refused
    g2_client_ids_belong_to_their_sender
    g2_without_a_client_id_equal_texts_are_different_messages
    g3_ids_are_dense_per_conversation_and_shared_by_both_directions
    g3_ids_stay_dense_when_many_threads_write
    g3_a_refused_member_uses_no_id_and_leaves_the_others_alone
    g5_unread_is_what_the_other_sent_above_the_cursor
    g5_a_cursor_only_moves_forward_and_not_past_the_newest
    g5_a_read_in_the_batch_of_a_message_covers_what_came_before_it
    g5_reading_where_nothing_was_said_changes_nothing
    g6_what_cannot_be_stored_is_refused_with_a_reason
    history_pages_by_begin_and_count
    history_is_cut_at_the_row_limit
    history_is_cut_before_a_page_outgrows_a_frame
    messages_are_found_by_id_newest_first
    the_latest_id_is_zero_before_the_first_message
    sessions_show_their_newest_message
    a_removed_session_is_read_and_comes_back_with_the_next_message
    a_session_is_removed_in_the_batch_that_made_it
    sign_in_needs_the_exact_name_and_password
    a_disabled_account_cannot_sign_in_until_it_is_enabled
    a_new_password_replaces_the_old_one
    accounts_refuse_what_makes_no_sense
    users_are_found_by_id_whatever_their_status
    the_full_pull_leaves_out_who_left_and_the_next_ones_do_not
    no_change_within_a_second_is_missed_by_a_pull
    a_long_address_book_comes_in_pages_that_miss_nobody
    departments_are_pulled_by_change
    a_changed_card_is_in_the_next_pull_and_in_no_one_elses
    no_change_within_one_batch_is_missed_by_a_pull
    texts_of_a_card_have_limits_in_bytes
    a_push_shield_is_off_until_it_is_set_and_nobody_pulls_it
    each_device_of_a_user_keeps_its_own_token
    a_token_belongs_to_who_registered_it_last
    the_devices_of_a_user_have_a_limit
    what_is_no_push_token_is_refused
    a_group_is_made_of_those_named_who_exist
    a_group_that_makes_no_sense_is_refused
    who_may_change_a_group
    nobody_to_add_is_a_failure_and_too_many_too
    fixed_groups_are_listed_with_their_version
    g3_ids_are_dense_per_group_whoever_sends
    g2_the_same_client_id_in_a_group_is_the_same_message
    only_members_write_to_a_group
    a_message_says_which_membership_it_met
    members_see_what_was_stored_since_they_joined
    who_left_sees_nothing_and_coming_back_hides_what_was_before
    g5_group_unread_is_what_others_sent_above_the_cursor
    a_group_is_on_the_list_of_all_members_at_once
    a_group_taken_off_the_list_comes_back_with_the_next_message
    a_shield_is_one_members_and_one_groups
    an_operator_makes_changes_and_lists_groups
}

//! What a store promises. One suite, unchanged, against each of them; then the faults that
//! only a cluster has.

mod conformance;
mod etcd_faults;
mod etcd_limits;
mod fixture;
mod history;

/// Each test of the suite on each store, on keys of its own.
macro_rules! on_each_store {
    ($($test:ident),* $(,)?) => {
        mod on_memory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::conformance::$test(&super::fixture::Fixture::memory()).await;
            })*
        }
        mod on_disk {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::conformance::$test(&super::fixture::Fixture::disk().await).await;
            })*
        }
        mod on_etcd {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::conformance::$test(&super::fixture::Fixture::etcd().await).await;
            })*
        }
    };
}

on_each_store!(
    only_the_first_entry_of_a_queue_is_first,
    what_may_be_durable_later_is_there_at_once,
    queues_do_not_see_one_another,
    a_retried_entry_finds_itself,
    a_try_joins_an_empty_queue_and_no_other,
    an_entry_of_a_session_that_is_gone_stays_out,
    an_entry_joins_several_queues_in_one_step_or_none,
    several_keys_are_deleted_in_one_step_or_none,
    the_widest_operations_fit,
    what_is_attached_to_no_lease_outlives_its_session,
    a_delete_needs_its_guard,
    a_note_comes_in_one_step_with_the_deletion,
    a_put_needs_its_guard,
    a_put_under_a_lease_that_is_gone_fails_alone,
    the_end_of_a_lease_deletes_all_its_keys_in_one_step,
    a_lease_that_is_not_kept_alive_ends,
    a_lease_that_is_kept_alive_does_not,
    a_lease_that_is_gone_stays_gone,
    a_lease_is_granted_once,
    the_range_of_ttls_is_granted,
    a_batch_has_one_outcome_an_operation,
    the_largest_batch_fits,
    parallel_batches_all_happen,
    the_first_record_is_the_oldest,
    a_watch_tells_the_state_and_then_every_change,
    a_watch_confirms_that_nothing_happens,
);

//! What a log promises. One suite, unchanged, against each of them; then the faults that only a cluster
//! has.

mod conformance;
mod driven;
mod etcd_faults;
mod etcd_history;
mod etcd_limits;
mod etcd_quota;
mod etcd_replicas;
mod ground;
mod load;

/// Each test of the suite on each log, on a ground of its own.
macro_rules! on_each_log {
    ($($test:ident),* $(,)?) => {
        mod on_etcd {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::conformance::$test(&super::ground::OnEtcd::shared().await).await;
            })*
        }

        /// One after the other: a cluster of its own for each would take longer than the suite.
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn on_three_nodes() {
            let cluster = integration_tests::EtcdCluster::start(3).await;
            $(conformance::$test(&ground::OnEtcd::at(cluster.endpoints())).await;)*
        }
    };
}

on_each_log!(
    a_new_log_is_empty_and_live,
    records_are_delivered_once_and_in_order,
    records_of_a_lane_keep_their_order,
    a_lane_takes_one_record_at_a_time,
    a_record_that_is_too_large_is_refused,
    the_largest_record_fits,
    what_was_lived_is_read_again,
    places_only_grow_over_openings,
    a_barrier_comes_after_what_was_appended_before,
    every_barrier_is_answered,
    a_checkpoint_stands_in_for_the_records_before_its_floor,
    a_checkpoint_that_was_not_finished_is_not_read,
    a_checkpoint_may_be_empty_or_large,
    a_lower_floor_changes_nothing,
    two_checkpoints_at_one_floor_are_kept_apart,
);

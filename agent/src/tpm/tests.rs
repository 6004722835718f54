use super::{testing::SoftTpm, *};

#[tokio::test]
async fn keys_survive_a_restart_and_quotes_answer_the_challenge() {
    let mut soft = SoftTpm::blank();
    let first = Tpm::open(soft.settings()).unwrap();
    let quoted = first.quote([7; 32]).await.unwrap();
    assert_eq!(quoted.pcrs.len(), 8);
    assert!(quoted.signed.attest.windows(32).any(|w| w == [7; 32]));
    let identity = first.identity().clone();
    drop(first);

    let second = Tpm::open(soft.settings()).unwrap();
    assert_eq!(*second.identity(), identity, "restart of the agent");

    soft.reboot();
    let again = second.quote([8; 32]).await.unwrap();
    assert_eq!(
        again.clock.reset_count,
        quoted.clock.reset_count + 1,
        "the connection is made again after a reset, and the reset shows"
    );
}

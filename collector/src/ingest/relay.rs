//! Credentials on their way to a node's TPM, and who waits for each answer. The collector passes
//! bytes: what it knows of a credential is its length.

use std::collections::HashMap;

use bailiwick_attestation::proto::v1;
use tokio::sync::oneshot;

/// Credentials under way on one stream: a person approves one node at a time.
const OPEN: usize = 4;

/// Who waits, by the credential's id.
#[derive(Debug, Default)]
pub(super) struct Relay {
    waiting: HashMap<Vec<u8>, oneshot::Sender<v1::ActivationAnswer>>,
}

impl Relay {
    /// Takes a credential to pass on. Where too many are under way it is dropped, and with it
    /// the sender: whoever waits is told that there is no answer.
    pub(super) fn begin(
        &mut self,
        activation: v1::Activation,
        answer: oneshot::Sender<v1::ActivationAnswer>,
    ) -> Option<v1::Activation> {
        // Whoever gave up waiting makes room.
        self.waiting.retain(|_, waiting| !waiting.is_closed());
        if self.waiting.len() >= OPEN || self.waiting.contains_key(&activation.id) {
            return None;
        }
        self.waiting.insert(activation.id.clone(), answer);
        Some(activation)
    }

    /// Hands an answer to whoever waits for it; each answer once.
    pub(super) fn answer(&mut self, answer: v1::ActivationAnswer) -> bool {
        match self.waiting.remove(&answer.id) {
            None => false,
            Some(waiting) => waiting.send(answer).is_ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn activation(id: u8) -> v1::Activation {
        v1::Activation {
            id: vec![id; 16],
            ..v1::Activation::default()
        }
    }

    fn secret(id: u8) -> v1::ActivationAnswer {
        v1::ActivationAnswer {
            id: vec![id; 16],
            answer: Some(v1::activation_answer::Answer::Secret(vec![id])),
        }
    }

    #[test]
    fn each_answer_goes_once_to_whoever_asked() {
        let mut relay = Relay::default();
        let mut waiters = Vec::new();
        for id in 0..4 {
            let (sender, waiter) = oneshot::channel();
            assert_eq!(relay.begin(activation(id), sender), Some(activation(id)));
            waiters.push(waiter);
        }
        let (sender, mut fifth) = oneshot::channel();
        assert_eq!(relay.begin(activation(9), sender), None, "bounded");
        assert!(fifth.try_recv().is_err(), "and told so");

        assert!(!relay.answer(secret(9)), "nobody asked");
        assert!(relay.answer(secret(2)));
        assert_eq!(waiters[2].try_recv(), Ok(secret(2)));
        assert!(waiters[1].try_recv().is_err(), "not the others'");
        assert!(!relay.answer(secret(2)), "a second answer");

        let (sender, _waiter) = oneshot::channel();
        assert_eq!(
            relay.begin(activation(1), sender),
            None,
            "one id, one waiter"
        );
        drop(waiters.remove(0));
        for (id, room) in [(5, true), (6, true), (7, false)] {
            let (sender, waiter) = oneshot::channel();
            assert_eq!(relay.begin(activation(id), sender).is_some(), room, "{id}");
            waiters.push(waiter);
        }
    }
}

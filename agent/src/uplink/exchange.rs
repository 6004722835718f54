//! What to say next: the node's side of the attestation exchange.
//!
//! Owns no socket, clock or disk. The caller reports what happened and performs the [`Step`] that
//! [`Exchange::next`] names; a day out of reach is tested in microseconds.
//!
//! One statement is under way at a time. Older ones go first, in their order, for the collector
//! counts; a fresh one answers a challenge, except out of reach, where it is history only.

use std::{
    collections::{BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use bailiwick_attestation::{
    Sha256Digest,
    evidence::{Freshness, Nonce},
};

/// Without a connection for less than this (or the time between statements, if that is shorter),
/// the node waits for it to come back.
const OUT_OF_REACH: Duration = Duration::from_secs(15);

/// A statement without an answer for so long means the stream is dead.
const ANSWER: Duration = Duration::from_secs(60);

/// A connection on which no challenge came for so long is made again.
const CHALLENGE: Duration = Duration::from_secs(30);

/// Challenges are not answered in their last moments: the answer would come too late.
const MARGIN: Duration = Duration::from_secs(5);

/// A statement the collector has not given a receipt for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Item {
    /// SHA-256 of its bytes.
    pub digest: Sha256Digest,
    /// Where the spool keeps it; `None`: the spool was full.
    pub index: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Tracked {
    item: Item,
    /// Quoted again after a refusal.
    requoted: bool,
}

/// What to do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Step {
    /// Nothing before this instant, or before something happens.
    Wait(Option<Instant>),
    /// Assemble, quote, keep and (with a connection) send a statement of now.
    Make(Source),
    /// Send a kept statement as it is.
    Resend(Item),
    /// Quote a kept statement under another nonce and send that.
    Requote(Item, Source),
    /// Give the connection up and make another.
    Reconnect(&'static str),
}

/// Where a quote's nonce comes from. The caller knows receipt and number.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Source {
    /// The collector's challenge.
    Challenge(Nonce),
    /// None: out of reach when it was made.
    Unchallenged,
}

impl Source {
    /// With what the node knows about its last receipt.
    #[must_use]
    pub const fn freshness(self, last_receipt: Sha256Digest, number: u64) -> Freshness {
        match self {
            Self::Challenge(nonce) => Freshness::Challenged(nonce),
            Self::Unchallenged => Freshness::Unchallenged {
                last_receipt,
                number,
            },
        }
    }
}

/// What a refusal means for the statement.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Refusal {
    /// It is quoted again.
    Again,
    /// It will not be accepted: forget it and report the gap.
    Dropped(Item),
    /// The collector knows another history: forget it and begin a new epoch.
    Forked(Item),
    /// Not a statement under way.
    Unknown,
}

/// State of the exchange.
#[derive(Debug)]
pub struct Exchange {
    /// Not accepted on this connection yet, oldest first.
    backlog: VecDeque<Tracked>,
    /// Accepted, waiting for a receipt.
    accepted: VecDeque<Item>,
    under_way: Option<(Tracked, Instant)>,
    requote: Option<Tracked>,
    challenge: Option<(Nonce, Instant)>,
    /// The challenge that the statement being made answers.
    answering: Option<(Nonce, Instant)>,
    /// Nobody signs before this.
    held: Option<Instant>,
    /// Kept statements that cannot be signed again.
    unsignable: BTreeSet<Sha256Digest>,
    due: bool,
    link: Link,
    out_of_reach: Duration,
}

#[derive(Clone, Copy, Debug)]
enum Link {
    Down { since: Instant },
    Up { challenge_wanted_since: Instant },
}

impl Exchange {
    /// Starts without a connection, with what the spool kept.
    #[must_use]
    pub fn new(now: Instant, interval: Duration, kept: impl IntoIterator<Item = Item>) -> Self {
        Self {
            backlog: kept.into_iter().map(Tracked::new).collect(),
            accepted: VecDeque::new(),
            under_way: None,
            requote: None,
            challenge: None,
            answering: None,
            held: None,
            unsignable: BTreeSet::new(),
            due: true,
            link: Link::Down { since: now },
            out_of_reach: OUT_OF_REACH.min(interval),
        }
    }

    /// Of what was kept, these are sent as they are or not at all: whoever signed them is gone.
    #[must_use]
    pub fn never_again(mut self, digests: &BTreeSet<Sha256Digest>) -> Self {
        self.unsignable.clone_from(digests);
        self
    }

    /// A statement of now is wanted: the timer, a change, or a challenge asked.
    pub fn want(&mut self) {
        self.due = true;
    }

    /// The stream stands.
    pub fn connected(&mut self, now: Instant) {
        self.disconnected(now);
        self.link = Link::Up {
            challenge_wanted_since: now,
        };
    }

    /// The stream is gone. What had no receipt is sent again on the next one. Answers a statement
    /// that was nowhere kept and is lost with the stream.
    pub fn disconnected(&mut self, now: Instant) -> Option<Item> {
        let under_way = self.under_way.take().map(|(tracked, _)| tracked);
        let requote = self.requote.take();
        let lost = under_way.filter(|tracked| tracked.item.index.is_none());
        for tracked in under_way.into_iter().chain(requote).rev() {
            if tracked.item.index.is_some() {
                self.backlog.push_front(Tracked::new(tracked.item));
            }
        }
        // Accepted ones are older than those that wait.
        while let Some(item) = self.accepted.pop_back() {
            if item.index.is_some() {
                self.backlog.push_front(Tracked::new(item));
            }
        }
        self.challenge = None;
        self.answering = None;
        if matches!(self.link, Link::Up { .. }) {
            self.link = Link::Down { since: now };
        }
        lost.map(|tracked| tracked.item)
    }

    /// The collector drew a nonce; `now_wanted`: it wants an answer at once.
    pub fn challenged(&mut self, nonce: Nonce, until: Instant, now_wanted: bool) {
        self.challenge = Some((nonce, until));
        self.due |= now_wanted;
    }

    /// A statement was made (and sent, with a connection).
    pub fn made(&mut self, item: Item, source: Source, now: Instant) {
        self.due = false;
        self.answering = None;
        match (self.link, source) {
            (Link::Up { .. }, Source::Challenge(_)) => {
                self.under_way = Some((Tracked::new(item), now));
            }
            _ => self.backlog.push_back(Tracked::new(item)),
        }
    }

    /// A statement of now could not be made; the next one waits for the next wish.
    pub const fn not_made(&mut self) {
        self.due = false;
        self.answering = None;
    }

    /// Nobody signed what was to be made or signed again, and nobody is asked before `until`: the
    /// challenge is still there to be answered, and what is kept stays kept.
    pub const fn unsigned(&mut self, until: Instant) {
        self.held = Some(until);
        if self.answering.is_some() {
            self.challenge = self.answering.take();
        }
    }

    /// A kept statement was sent.
    pub fn sent(&mut self, item: Item, now: Instant) {
        let requoted = self.requote.take_if(|t| t.item == item).is_some();
        if !requoted {
            self.backlog.retain(|tracked| tracked.item != item);
        }
        self.under_way = Some((Tracked { item, requoted }, now));
    }

    /// A kept statement turned out to be unreadable.
    pub fn unreadable(&mut self, item: Item) {
        self.requote.take_if(|tracked| tracked.item == item);
        self.backlog.retain(|tracked| tracked.item != item);
    }

    /// The collector has it on disk.
    pub fn accepted(&mut self, digest: &Sha256Digest) -> bool {
        let Some((tracked, _)) = self.under_way.take_if(|(t, _)| t.item.digest == *digest) else {
            return false;
        };
        self.accepted.push_back(tracked.item);
        true
    }

    /// The collector did not record it.
    pub fn refused(&mut self, digest: &Sha256Digest, code: &str) -> Refusal {
        let Some((tracked, _)) = self.under_way.take_if(|(t, _)| t.item.digest == *digest) else {
            return Refusal::Unknown;
        };
        let stale_nonce = matches!(code, "nonce-unknown" | "nonce-expired");
        match code {
            // What cannot be proved now cannot be proved later either.
            "sequence-forked" | "sequence-behind" | "log-rewritten" | "log-unproven" => {
                Refusal::Forked(tracked.item)
            }
            _ if self.unsignable.remove(digest) => Refusal::Dropped(tracked.item),
            _ if stale_nonce && !tracked.requoted && tracked.item.index.is_some() => {
                // It was made to answer a challenge that is gone; as history it still counts.
                self.requote = Some(tracked);
                self.due = true;
                Refusal::Again
            }
            _ => Refusal::Dropped(tracked.item),
        }
    }

    /// A verified receipt covers it: the spool may forget what this returns.
    pub fn receipted(&mut self, digest: &Sha256Digest) -> Option<Item> {
        if let Some(position) = self.accepted.iter().position(|item| item.digest == *digest) {
            return self.accepted.remove(position);
        }
        let position = self.backlog.iter().position(|t| t.item.digest == *digest)?;
        self.backlog.remove(position).map(|tracked| tracked.item)
    }

    /// Lets go of everything kept: the collector knows another history.
    pub fn abandon(&mut self) -> Vec<Item> {
        let requote = self.requote.take();
        let under_way = self.under_way.take().map(|(tracked, _)| tracked);
        let waiting = self.backlog.drain(..).chain(requote).chain(under_way);
        let waiting: Vec<Item> = waiting.map(|tracked| tracked.item).collect();
        self.accepted.drain(..).chain(waiting).collect()
    }

    /// Asks for receipts once more, by sending again what was accepted: they could not be checked
    /// when they came.
    pub fn ask_for_receipts(&mut self) {
        while let Some(item) = self.accepted.pop_back() {
            if item.index.is_some() {
                self.backlog.push_front(Tracked::new(item));
            }
        }
    }

    /// Whether a receipt for it is awaited.
    #[must_use]
    pub fn awaits(&self, digest: &Sha256Digest) -> bool {
        self.accepted.iter().any(|item| item.digest == *digest)
            || self.backlog.iter().any(|t| t.item.digest == *digest)
    }

    /// What to do now.
    pub fn next(&mut self, now: Instant) -> Step {
        self.held.take_if(|until| now >= *until);
        match self.link {
            Link::Down { since } => {
                let alone = since + self.out_of_reach;
                if !self.due {
                    Step::Wait(None)
                } else if now < alone {
                    Step::Wait(Some(alone))
                } else if self.held.is_some() {
                    Step::Wait(self.held)
                } else {
                    Step::Make(Source::Unchallenged)
                }
            }
            Link::Up {
                challenge_wanted_since,
            } => self.next_connected(now, challenge_wanted_since),
        }
    }

    fn next_connected(&mut self, now: Instant, wanted_since: Instant) -> Step {
        if let Some((_, since)) = self.under_way {
            let late = since + ANSWER;
            return if now < late {
                Step::Wait(Some(late))
            } else {
                Step::Reconnect("no answer to a statement")
            };
        }
        if let Some(tracked) = self.requote {
            if self.held.is_some() {
                return Step::Wait(self.held);
            }
            return Step::Requote(tracked.item, Source::Unchallenged);
        }
        if let Some(tracked) = self.backlog.front() {
            return Step::Resend(tracked.item);
        }
        if !self.due {
            return Step::Wait(None);
        }
        match self.challenge.take_if(|(_, until)| now + MARGIN >= *until) {
            Some(_expired) => {
                self.link = Link::Up {
                    challenge_wanted_since: now,
                };
                // Nothing but a new stream brings a new challenge.
                Step::Reconnect("the challenge expired unused")
            }
            None if self.held.is_some() => Step::Wait(self.held),
            None => match self.challenge.take() {
                Some((nonce, until)) => {
                    self.answering = Some((nonce, until));
                    Step::Make(Source::Challenge(nonce))
                }
                None if now < wanted_since + CHALLENGE => {
                    Step::Wait(Some(wanted_since + CHALLENGE))
                }
                None => Step::Reconnect("no challenge came"),
            },
        }
    }
}

impl Tracked {
    const fn new(item: Item) -> Self {
        Self {
            item,
            requoted: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(number: u8) -> Item {
        Item {
            digest: Sha256Digest([number; 32]),
            index: Some(number.into()),
        }
    }

    fn digest(number: u8) -> Sha256Digest {
        item(number).digest
    }

    const NONCE: Nonce = Nonce::new([9; 32]);
    const MINUTE: Duration = Duration::from_secs(60);

    fn connected(kept: &[Item]) -> (Exchange, Instant) {
        let now = Instant::now();
        let mut exchange = Exchange::new(now, MINUTE, kept.iter().copied());
        exchange.connected(now);
        exchange.challenged(NONCE, now + Duration::from_secs(600), true);
        (exchange, now)
    }

    #[test]
    fn a_challenge_is_answered_once_and_forgotten_with_its_receipt() {
        let (mut exchange, now) = connected(&[]);
        let source = Source::Challenge(NONCE);
        assert_eq!(exchange.next(now), Step::Make(source));
        exchange.made(item(1), source, now);
        assert!(
            matches!(exchange.next(now), Step::Wait(Some(_))),
            "one at a time"
        );
        assert!(!exchange.accepted(&digest(2)), "not the one under way");
        assert!(exchange.accepted(&digest(1)));
        assert_eq!(exchange.next(now), Step::Wait(None));
        exchange.want();
        assert!(
            matches!(exchange.next(now), Step::Wait(Some(_))),
            "a nonce is used once; the next comes with the answer"
        );
        assert!(exchange.awaits(&digest(1)));
        assert_eq!(exchange.receipted(&digest(1)), Some(item(1)));
        assert_eq!(exchange.receipted(&digest(1)), None);
    }

    #[test]
    fn out_of_reach_statements_are_history_and_go_first_afterwards() {
        let start = Instant::now();
        let mut exchange = Exchange::new(start, MINUTE, [item(1)]);
        assert!(
            matches!(exchange.next(start), Step::Wait(Some(_))),
            "a moment's silence is not out of reach"
        );
        let later = start + OUT_OF_REACH;
        assert_eq!(exchange.next(later), Step::Make(Source::Unchallenged));
        exchange.made(item(2), Source::Unchallenged, later);
        assert_eq!(
            exchange.next(later),
            Step::Wait(None),
            "not before the next wish"
        );

        exchange.connected(later);
        exchange.challenged(NONCE, later + Duration::from_secs(600), true);
        for number in [1, 2] {
            assert_eq!(exchange.next(later), Step::Resend(item(number)));
            exchange.sent(item(number), later);
            assert!(exchange.accepted(&digest(number)));
        }
        assert_eq!(exchange.next(later), Step::Make(Source::Challenge(NONCE)));
    }

    #[test]
    fn without_a_receipt_it_is_sent_again_in_order() {
        let (mut exchange, now) = connected(&[]);
        exchange.made(item(1), Source::Challenge(NONCE), now);
        exchange.accepted(&digest(1));
        exchange.made(item(2), Source::Challenge(NONCE), now);
        assert_eq!(exchange.disconnected(now), None);
        exchange.connected(now);
        assert_eq!(exchange.next(now), Step::Resend(item(1)));
        exchange.sent(item(1), now);
        exchange.accepted(&digest(1));
        assert_eq!(exchange.next(now), Step::Resend(item(2)));
        exchange.sent(item(2), now);

        // Its challenge went with the old stream: once more, as history; then never.
        assert_eq!(
            exchange.refused(&digest(2), "nonce-unknown"),
            Refusal::Again
        );
        assert_eq!(
            exchange.next(now),
            Step::Requote(item(2), Source::Unchallenged)
        );
        exchange.sent(item(2), now);
        assert_eq!(
            exchange.refused(&digest(2), "nonce-unknown"),
            Refusal::Dropped(item(2))
        );
        assert_eq!(exchange.receipted(&digest(1)), Some(item(1)));
    }

    #[test]
    fn refusals_end_the_statement_or_the_epoch() {
        for (code, want) in [
            ("quote-signature", Refusal::Dropped(item(1))),
            ("sequence-forked", Refusal::Forked(item(1))),
            ("log-rewritten", Refusal::Forked(item(1))),
            ("log-unproven", Refusal::Forked(item(1))),
            ("sequence-behind", Refusal::Forked(item(1))),
        ] {
            let (mut exchange, now) = connected(&[]);
            exchange.made(item(1), Source::Challenge(NONCE), now);
            assert_eq!(
                exchange.refused(&digest(2), code),
                Refusal::Unknown,
                "{code}"
            );
            assert_eq!(exchange.refused(&digest(1), code), want, "{code}");
        }
    }

    #[test]
    fn a_kept_answer_to_a_challenge_that_is_gone_counts_as_history_once() {
        let unkept = Item {
            index: None,
            ..item(1)
        };
        for code in ["nonce-unknown", "nonce-expired"] {
            let (mut exchange, now) = connected(&[]);
            exchange.made(unkept, Source::Challenge(NONCE), now);
            let nothing_to_quote = exchange.refused(&digest(1), code);
            assert_eq!(nothing_to_quote, Refusal::Dropped(unkept), "{code}");

            exchange.made(item(1), Source::Challenge(NONCE), now);
            assert_eq!(exchange.refused(&digest(1), code), Refusal::Again, "{code}");
            let again = Step::Requote(item(1), Source::Unchallenged);
            assert_eq!(exchange.next(now), again, "{code}");
            exchange.sent(item(1), now);
            let enough = exchange.refused(&digest(1), code);
            assert_eq!(enough, Refusal::Dropped(item(1)), "{code}");
        }
    }

    #[test]
    fn what_had_no_receipt_is_sent_again_when_the_stream_is_gone() {
        let (mut exchange, now) = connected(&[]);
        exchange.made(item(1), Source::Challenge(NONCE), now);
        assert!(exchange.accepted(&digest(1)));
        exchange.made(item(2), Source::Unchallenged, now);
        assert_eq!(exchange.disconnected(now), None, "both are kept");
        exchange.connected(now);
        assert_eq!(
            exchange.next(now),
            Step::Resend(item(1)),
            "the oldest first"
        );
    }

    #[test]
    fn what_the_spool_could_not_keep_is_lost_with_the_stream() {
        let (mut exchange, now) = connected(&[]);
        let unkept = Item {
            index: None,
            ..item(1)
        };
        exchange.made(unkept, Source::Challenge(NONCE), now);
        assert_eq!(exchange.disconnected(now), Some(unkept));
    }

    #[test]
    fn dead_streams_are_given_up() {
        let (mut exchange, now) = connected(&[]);
        exchange.made(item(1), Source::Challenge(NONCE), now);
        assert!(
            matches!(exchange.next(now + ANSWER), Step::Reconnect(_)),
            "no answer"
        );

        let (mut exchange, now) = connected(&[]);
        let late = now + Duration::from_secs(596);
        assert!(
            matches!(exchange.next(late), Step::Reconnect(_)),
            "challenge too old"
        );

        let mut exchange = Exchange::new(now, MINUTE, []);
        exchange.connected(now);
        assert!(matches!(exchange.next(now), Step::Wait(Some(_))));
        assert!(
            matches!(exchange.next(now + CHALLENGE), Step::Reconnect(_)),
            "no challenge"
        );
    }

    #[test]
    fn without_a_signature_the_challenge_stays_and_nobody_is_asked_too_soon() {
        let (mut exchange, now) = connected(&[]);
        let soon = now + Duration::from_secs(2);
        let source = Source::Challenge(NONCE);
        assert_eq!(exchange.next(now), Step::Make(source));
        exchange.unsigned(soon);
        // Whatever wants a statement meanwhile.
        exchange.want();
        assert_eq!(exchange.next(now), Step::Wait(Some(soon)));
        assert_eq!(exchange.next(soon), Step::Make(source), "the same one");
        exchange.unsigned(soon + MINUTE);
        // A challenge that ends meanwhile is not answered late.
        let late = now + Duration::from_secs(596);
        assert!(matches!(exchange.next(late), Step::Reconnect(_)));

        // As for what is signed again: it is kept until somebody does.
        let (mut exchange, now) = connected(&[]);
        exchange.made(item(1), source, now);
        let again = Step::Requote(item(1), Source::Unchallenged);
        assert_eq!(
            exchange.refused(&digest(1), "nonce-unknown"),
            Refusal::Again
        );
        assert_eq!(exchange.next(now), again);
        exchange.unsigned(soon);
        assert_eq!(exchange.next(now), Step::Wait(Some(soon)));
        assert_eq!(exchange.next(soon), again);

        // And out of reach.
        let mut exchange = Exchange::new(now, MINUTE, []);
        let alone = now + OUT_OF_REACH;
        assert_eq!(exchange.next(alone), Step::Make(Source::Unchallenged));
        exchange.unsigned(alone + MINUTE);
        assert_eq!(exchange.next(alone), Step::Wait(Some(alone + MINUTE)));
        let later = alone + MINUTE;
        assert_eq!(exchange.next(later), Step::Make(Source::Unchallenged));
    }

    #[test]
    fn what_nobody_can_sign_again_is_sent_once_as_it_is() {
        let kept = [item(1), item(2)];
        let now = Instant::now();
        let unsignable = BTreeSet::from([digest(1), digest(2)]);
        let mut exchange = Exchange::new(now, MINUTE, kept).never_again(&unsignable);
        exchange.connected(now);
        exchange.challenged(NONCE, now + Duration::from_secs(600), true);
        // The collector had recorded the first, and not the second.
        assert_eq!(exchange.next(now), Step::Resend(item(1)));
        exchange.sent(item(1), now);
        assert!(exchange.accepted(&digest(1)));
        assert_eq!(exchange.next(now), Step::Resend(item(2)));
        exchange.sent(item(2), now);
        let refused = exchange.refused(&digest(2), "nonce-unknown");
        assert_eq!(refused, Refusal::Dropped(item(2)), "never signed again");
        assert_eq!(exchange.receipted(&digest(1)), Some(item(1)));
        assert_eq!(exchange.next(now), Step::Make(Source::Challenge(NONCE)));
    }
}

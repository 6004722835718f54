//! Processors made in the test, under a root of the test: what they sign, who lies about it, and
//! what whoever publishes of them says.

mod collateral;
mod levels;
pub(crate) mod made;
mod quote;

use std::sync::LazyLock;

use serde_json::Value;

use super::signed::endorse_under;
use super::verify::verify_under;
use super::{Collateral, Quote, Tcb, TdxRefused, evaluate};
use crate::ids::UnixTime;
use made::{AT, Made, Plan, made};

static V4: LazyLock<Made> = LazyLock::new(|| made(&Plan::v4()));
static V5: LazyLock<Made> = LazyLock::new(|| made(&Plan::v5()));

fn codes(refused: &[TdxRefused]) -> Vec<&'static str> {
    refused.iter().map(TdxRefused::code).collect()
}

/// Signatures and path alone.
fn chained(made: &Made, quote: &[u8], at: UnixTime) -> Result<(), Vec<&'static str>> {
    let quote = Quote::parse(quote).unwrap();
    let chain = quote.pck_chain.clone().unwrap();
    let certified = verify_under(&made.root, &quote, &chain, at);
    certified.map(|_| ()).map_err(|why| codes(&why))
}

fn endorsed(made: &Made, published: &Value, at: UnixTime) -> Result<(), Vec<&'static str>> {
    let collateral = Collateral::parse(published.to_string().as_bytes()).unwrap();
    let endorsed = endorse_under(&made.root, &collateral, at);
    endorsed.map(|_| ()).map_err(|why| codes(&why))
}

/// All three steps.
fn judged(made: &Made, published: &Value) -> Result<Tcb, Vec<&'static str>> {
    let quote = Quote::parse(&made.quote).unwrap();
    let chain = quote.pck_chain.clone().unwrap();
    let certified = verify_under(&made.root, &quote, &chain, AT).map_err(|why| codes(&why))?;
    let collateral = Collateral::parse(published.to_string().as_bytes()).unwrap();
    let said = endorse_under(&made.root, &collateral, AT).map_err(|why| codes(&why))?;
    evaluate(&certified, &said).map_err(|why| codes(&why))
}

//! What another profile would say to guests, before anybody signs it.

use std::fs;

use serde_json::Value;

use crate::client::client;
use crate::guest::Scene;

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_of_guests_is_planned_by_itself() {
    let mut scene = Scene::new().await;
    let node = scene.stand.machine("gpu-01");
    scene.inventory = crate::stand::entry("gpu-01", &node);
    scene.apply().await;
    let mut guest = scene.joined("guest-01", 1).await;
    assert_eq!(guest.said(|_| {}).await, "affirming");
    let folder = scene.stand.dir.path().join("planned");
    scene.stand.check_out(&scene.policy, &folder).await;
    let config = scene.stand.client_config();
    let demand =
        "[[require]]\nclaim = \"cvm.technology\"\nis = \"tdx\"\nprovenance = \"self-reported\"\n";
    let file = folder.join("guest-profile.toml");
    let plain = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{plain}{demand}")).unwrap();
    let rows = async |words: &[&str]| {
        let path = file.to_str().unwrap();
        let words = [
            &["profile", "plan", "--all", "--output", "json", "-f", path],
            words,
        ]
        .concat();
        let told = client(&words, Some(&config)).await;
        let rows: Vec<Value> = serde_json::from_slice(&told.stdout).unwrap();
        let text = |row: &Value, key: &str| row[key].as_str().unwrap().to_owned();
        let row = |row: &Value| ["node", "change", "because"].map(|key| text(row, key));
        (told.status.code(), rows.iter().map(row).collect::<Vec<_>>())
    };
    let (code, told) = rows(&["--guests"]).await;
    let found: Vec<[&str; 2]> = told
        .iter()
        .map(|[node, change, _]| [&**node, change])
        .collect();
    let want = [["guest-01", "would-turn"], ["guest-02", "cannot-tell"]];
    assert_eq!((code, &found[..]), (Some(3), &want[..]), "{told:?}");
    assert!(told[0][2].starts_with("cvm.technology"), "{told:?}");
    assert!(told[1][2].contains("never enrolled"), "{told:?}");
    // Another file says nothing of them.
    let (_, told) = rows(&[]).await;
    let of_guests = told.iter().filter(|[node, ..]| node.starts_with("guest"));
    let said: Vec<&str> = of_guests.map(|[_, _, because]| because.as_str()).collect();
    let other = "it is held against guest-profile.toml, which this one does not change";
    assert_eq!(said, [other; 2]);

    let plan = async || {
        let words = ["policy", "plan", "-f", folder.to_str().unwrap()];
        let told = client(&words, Some(&config)).await;
        String::from_utf8_lossy(&told.stderr).into_owned()
    };
    let turns = "guest-01 would turn from affirming to contraindicated: cvm.technology";
    let said = plan().await;
    assert!(said.contains(turns), "{said}");
    fs::write(&file, &plain).unwrap();
    let said = plan().await;
    assert!(!said.contains("would turn"), "{said}");
    // Without a file of its own a guest is held against the hosts'.
    fs::remove_file(&file).unwrap();
    let said = plan().await;
    assert!(said.contains("guest-01 would turn"), "{said}");
}

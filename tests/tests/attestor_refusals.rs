//! What the attestor does not sign: it reads back what it is asked about, and goes by its own verdicts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::{Duration, Instant};

use alloy::primitives::{Address, B256, Bytes};
use serde_json::{Value, json};
use tidemark::{
    batch::{Header, summarise},
    consent::SignedConsent,
    dataset::{self, MemberRow, VersionContent, encode_members},
    event::{Event, EventKind},
    history::LoadedBatch,
    ids::{ConsentId, DataId},
    manifest::{Disclosure, Manifest, encode_disclosures},
    payload::Payload,
    publish::{VersionRequest, members},
    verdict::Verdict,
};
use tidemark_tests::{
    Options, Stack,
    stack::Services,
    story::{
        doors::{Doors, kept_metadata, meta, registration},
        market::history,
        people::Contributor,
        samples::repository_samples,
        world::World,
    },
    wirings::attestor_token,
};

struct Asked {
    stack: Stack,
    world: World,
    batches: Vec<LoadedBatch>,
}

impl Asked {
    /// Three accepted uploads, one rejected and two kept records, all anchored.
    async fn new() -> Self {
        tidemark::install_tls();
        let options =
            Options { services: Services::WriteSide, batch_age_ms_max: 300, poll_ms: 30, ..Options::default() };
        let stack = Stack::start(options).await.unwrap();
        let world = World::build(&stack, [9, 9, 9]).await.unwrap();
        let doors = Doors::new(&stack, &world).unwrap();
        let group = Contributor::group(4);
        let names = ["photo/photo-001.jpg", "photo/photo-002.jpg", "photo/photo-003.jpg", "photo/bad-small.png"];
        let samples = repository_samples().unwrap();
        for (at, name) in names.into_iter().enumerate() {
            let sample = samples.iter().find(|sample| sample.name == name).unwrap();
            let bytes = std::fs::read(&sample.path).unwrap();
            let answer =
                doors.post_upload(&meta(&world, sample, &group[at]).unwrap(), sample.mime, bytes).await.unwrap();
            assert_eq!(answer.status(), 201);
        }
        let kept =
            |id: &str| registration(id, &kept_metadata(id, tidemark::ids::ContentHash::of(id.as_bytes()), 0)).unwrap();
        doors.register("kept", &[kept("a"), kept("b")]).await.unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        let batches = loop {
            let batches = history(&stack).unwrap().load_all(Some(world.provider)).await.unwrap();
            if batches.iter().map(|batch| batch.manifest.events.len()).sum::<usize>() == 10 {
                break batches;
            }
            assert!(Instant::now() < deadline);
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        Self { stack, world, batches }
    }

    async fn post(&self, path: &str, token: &str, body: &Value) -> (u16, Value) {
        let url = format!("{}{path}", self.stack.attestor.as_ref().unwrap().url());
        let answer = reqwest::Client::new().post(url).bearer_auth(token).json(body).send().await.unwrap();
        let status = answer.status().as_u16();
        (status, serde_json::from_str(&answer.text().await.unwrap()).unwrap_or_default())
    }

    async fn sign(&self, header: &Header) -> (u16, Value) {
        self.post("/v1/batches", &attestor_token(), &json!({ "header": header })).await
    }

    /// Asks for a signature over these events as the next batch; gives the refusal's sentence.
    async fn refused(&self, events: Vec<Event>, disclosures: Vec<Disclosure>) -> String {
        let (status, body) = self.ask(events, disclosures).await;
        assert_eq!((status, body["type"].as_str()), (422, Some("urn:tidemark:problem:batch-refused")), "{body}");
        body["detail"].as_str().unwrap().to_owned()
    }

    /// Asks for a signature over these events as the next batch.
    async fn ask(&self, mut events: Vec<Event>, disclosures: Vec<Disclosure>) -> (u16, Value) {
        let store = self.stack.store().unwrap();
        let disclosed: Vec<Disclosure> =
            (0u32..).zip(disclosures).map(|(index, d)| Disclosure { index, ..d }).collect();
        for (index, event) in (0u32..).zip(&mut events) {
            event.index = index;
        }
        let disclosures = Some(store.put(&encode_disclosures(&disclosed).unwrap()).await.unwrap());
        let number = self.batches.len() as u64;
        let manifest = Manifest { provider: self.world.provider, number, events, disclosures };
        let summary = summarise(&manifest.events).unwrap();
        let cid = store.put(&manifest.encode().unwrap()).await.unwrap();
        let header = Header::new(manifest.provider, number, &manifest.events, &summary, cid).unwrap();
        self.sign(&header).await
    }

    /// An accepted record's two events with what they disclose.
    fn accepted(&self) -> (Vec<Event>, Vec<Disclosure>) {
        let all = self.batches.iter().flat_map(|batch| {
            batch.manifest.events.iter().map(|event| (event.clone(), batch.disclosures[&event.index].clone()))
        });
        let all: Vec<(Event, Disclosure)> = all.collect();
        let id = all.iter().find(|(event, _)| event.kind == EventKind::Accepted).unwrap().0.data_id;
        all.into_iter().filter(|(event, _)| event.data_id == id).unzip()
    }

    async fn version(
        &self,
        provider: Address,
        rows: &[MemberRow],
        spoil: impl Fn(&mut VersionContent),
    ) -> (u16, Value) {
        let summary = dataset::summarise(rows).unwrap();
        let manifest_cid = self.stack.store().unwrap().put(&encode_members(rows).unwrap()).await.unwrap();
        let mut content = VersionContent {
            root: summary.tree.root(),
            member_count: u32::try_from(rows.len()).unwrap(),
            total_weight: summary.total_weight,
            points_weight: summary.points_weight,
            purposes: summary.purposes,
            manifest_cid,
        };
        spoil(&mut content);
        let request = VersionRequest { provider, name: "set".into(), version: 1, content };
        self.post("/v1/dataset-versions", &attestor_token(), &json!(request)).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_attestor_signs_only_what_it_judged_itself_and_only_once() {
    let asked = Asked::new().await;
    let header = asked.batches[0].anchored.header.clone();

    // the same again gives the same; a stranger, or another header under the number, gets nothing
    let (status, again) = asked.sign(&header).await;
    assert_eq!((status, asked.sign(&header).await.1), (200, again));
    assert_eq!(asked.post("/v1/batches", "wrong", &json!({ "header": header })).await.0, 401);
    let (status, body) = asked.sign(&Header { root: B256::repeat_byte(1), ..header.clone() }).await;
    assert_eq!((status, body["type"].as_str()), (409, Some("urn:tidemark:problem:batch-number-taken")), "{body}");
    let next = asked.batches.len() as u64;
    let (status, _) = asked.sign(&Header { number: next, ..header }).await;
    assert_eq!(status, 422, "a manifest of another number");

    let (events, disclosures) = asked.accepted();
    let told = asked.refused(events.clone(), disclosures.clone()).await;
    assert!(told.contains("sequence: expected 2"), "a record that was signed before: {told}");

    let renamed = |spoil: &dyn Fn(&mut Event)| {
        // the same events as another record's beginning, so that only what is spoiled is wrong
        let mut events = events.clone();
        for event in &mut events {
            event.data_id = DataId::new("numo", "another").unwrap();
        }
        spoil(&mut events[1]);
        events[0].index = 0;
        events[0].previous = B256::ZERO;
        events[1].previous = events[0].leaf();
        events
    };
    let told = asked.refused(renamed(&|_| {}), disclosures.clone()).await;
    assert!(told.contains("verdict of this attestor"), "somebody else's verdict: {told}");
    let told = asked.refused(renamed(&|event| event.reward += 1), disclosures.clone()).await;
    assert!(told.contains("the task's price"), "{told}");
    let told = asked.refused(renamed(&|event| event.commitment = B256::repeat_byte(7)), disclosures.clone()).await;
    assert!(told.contains("commitment"), "{told}");
    let swapped = vec![disclosures[1].clone(), disclosures[0].clone()];
    let told = asked.refused(events, swapped).await;
    assert!(told.contains("commitment"), "{told}");
}

/// One record that was judged under a consent, and how its first two events come to be.
struct Direct<'a> {
    asked: &'a Asked,
    data_id: DataId,
    verdict: Verdict,
}

impl<'a> Direct<'a> {
    async fn new(asked: &'a Asked, consent: &SignedConsent) -> Self {
        let samples = repository_samples().unwrap();
        let sample = samples.iter().find(|sample| sample.name == "photo/photo-004.jpg").unwrap();
        let bytes = std::fs::read(&sample.path).unwrap();
        let data_id = DataId::new("numo", "direct").unwrap();
        let url = asked.stack.attestor.as_ref().unwrap().url();
        let url = format!("{url}/v1/verdicts?data_id={data_id}&mime_type={}", sample.mime);
        let ask = || reqwest::Client::new().post(&url).bearer_auth(attestor_token()).body(bytes.clone());
        assert_eq!(ask().send().await.unwrap().status(), 400, "no verdict without a consent");
        let unsigned = SignedConsent { signature: Bytes::new(), ..consent.clone() };
        for (consent, status) in [(&unsigned, 422), (consent, 200)] {
            let consent = serde_json::to_string(consent).unwrap();
            let answer = ask().header("tidemark-consent", consent).send().await.unwrap();
            let (answered, body) = (answer.status(), answer.text().await.unwrap());
            assert_eq!(answered, status, "{body}");
            if status == 200 {
                let mut body: Value = serde_json::from_str(&body).unwrap();
                let verdict = serde_json::from_value(body["verdict"].take()).unwrap();
                return Self { asked, data_id, verdict };
            }
        }
        unreachable!("the second answer has a verdict")
    }

    /// Registered and Accepted, as a relayer says them, with what they disclose.
    fn events(&self, consent_id: ConsentId, payee: Address, says: u32) -> (Vec<Event>, Vec<Disclosure>) {
        let (mut events, mut disclosures) = self.asked.accepted();
        for (event, disclosure) in events.iter_mut().zip(&mut disclosures) {
            let payload = match serde_json::from_str(&disclosure.payload).unwrap() {
                Payload::Registered { metadata_root, metadata, delivery, .. } => {
                    let source_record_id = "direct".to_owned();
                    Payload::Registered { source_record_id, metadata_root, metadata, purposes: says, delivery }
                }
                Payload::Accepted { .. } => Payload::Accepted { verdict: self.verdict.clone() },
                other => panic!("an accepted record has no {other:?}"),
            };
            disclosure.payload = String::from_utf8(tidemark::canonical::jcs(&payload).unwrap()).unwrap();
            event.data_id = self.data_id;
            event.content_hash = self.verdict.content_hash;
            (event.consent_id, event.payee, event.commitment) = (consent_id, payee, disclosure.commitment());
        }
        (events[0].index, events[0].previous) = (0, B256::ZERO);
        events[1].previous = events[0].leaf();
        (events, disclosures)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_attestor_signs_a_submission_only_as_the_consent_that_it_saw_has_it() {
    let asked = Asked::new().await;
    let person = Contributor::group(1).remove(0);
    let consent = person.consent(&asked.world).unwrap();
    let direct = Direct::new(&asked, &consent).await;
    let (id, payee) = (consent.id(&asked.world.deployment.consent_domain()), person.address());
    let told = async |(events, disclosures): (Vec<Event>, Vec<Disclosure>)| asked.refused(events, disclosures).await;

    let another = person.consent(&asked.world).unwrap().id(&asked.world.deployment.consent_domain());
    let said = told(direct.events(another, payee, consent.purposes)).await;
    assert!(said.contains("consent_id: expected one that"), "{said}");
    let said = told(direct.events(id, Address::repeat_byte(5), consent.purposes)).await;
    assert!(said.contains("payee: expected"), "{said}");
    let said = told(direct.events(id, payee, u32::MAX)).await;
    assert!(said.contains("purposes: expected"), "{said}");

    let (events, disclosures) = direct.events(id, payee, consent.purposes);
    let (status, body) = asked.ask(events, disclosures).await;
    assert_eq!(status, 200, "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_attestor_signs_a_version_only_of_members_as_they_were_accepted() {
    let asked = Asked::new().await;
    let provider = asked.world.provider;
    let rows = members(&history(&asked.stack).unwrap(), provider).await.unwrap();
    assert_eq!(rows.len(), 3);
    let told = |(status, body): (u16, Value)| {
        assert_eq!((status, body["type"].as_str()), (422, Some("urn:tidemark:problem:version-refused")), "{body}");
        body["detail"].as_str().unwrap().to_owned()
    };
    let spoiled = |spoil: &dyn Fn(&mut MemberRow)| {
        let mut rows = rows.clone();
        spoil(&mut rows[1]);
        rows
    };
    let wallet = Address::repeat_byte(5);
    let other = tidemark::store::cid_of(b"other bytes");
    for (rows, part) in [
        (spoiled(&|row| row.member.weight += 1), "weight"),
        (spoiled(&|row| row.member.payee = wallet), "payee"),
        (spoiled(&|row| row.member.contributor = B256::repeat_byte(1)), "contributor"),
        (spoiled(&|row| row.key_cid = other), "key_cid"),
        (spoiled(&|row| row.ciphertext_cid = other), "ciphertext_cid"),
        (spoiled(&|row| row.event_index += 1), "event_index"),
        (spoiled(&|row| row.purposes = u32::MAX), "purposes"),
    ] {
        let told = told(asked.version(provider, &rows, |_| {}).await);
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(told(asked.version(Address::repeat_byte(9), &rows, |_| {}).await).contains("provider"));
    let foreign = json!({ "provider": provider, "ip_id": "1", "version": 1, "content": {} });
    let (status, body) = asked.post("/v1/dataset-versions", &attestor_token(), &foreign).await;
    assert_eq!(status, 400, "which dataset follows from provider and name, and is not the caller's to say: {body}");
    let more = |content: &mut VersionContent| content.total_weight += 1;
    assert!(told(asked.version(provider, &rows, more).await).contains("weights"));
    let all = |content: &mut VersionContent| content.purposes = u32::MAX;
    assert!(told(asked.version(provider, &rows, all).await).contains("purposes"));
    let (status, body) = asked.version(provider, &rows, |_| {}).await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(asked.version(provider, &rows, |_| {}).await.1, body);
    assert_eq!(
        asked.version(provider, &rows[..2], |_| {}).await.0,
        200,
        "what was signed and never registered binds nobody"
    );
}

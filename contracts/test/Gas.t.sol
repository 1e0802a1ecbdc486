// SPDX-License-Identifier: MIT OR Apache-2.0
// Gas of the calls that users pay for, as whole transactions; forge writes them to contracts/snapshots/Gas.json.
pragma solidity ^0.8.28;

import {DeepTree} from "../bench/DeepTree.sol";
import {Ground} from "../interfaces/IDisputes.sol";
import {Member, VersionContent} from "../interfaces/IIPRegistry.sol";
import {RoyaltyClaim} from "../interfaces/ILicenseRegistry.sol";
import {Batch, ProvenanceEvent} from "../interfaces/IProvenanceLog.sol";
import {Claim, Permit} from "../interfaces/IRewardPool.sol";
import {AttestorQuorum} from "../src/AttestorQuorum.sol";
import {PointsTreasury} from "../src/PointsTreasury.sol";
import {Deploy} from "./Deploy.sol";
import {Fixture} from "./Fixture.sol";

/// Nothing is measured on a slot that only the very first call fills, and whoever pays keeps a balance: emptied slots give
/// gas back. Amounts and payees' balances are those of contracts/bench/Peers.t.sol.
contract GasTest is Fixture {
    using DeepTree for bytes32[];

    uint256 private constant DEPTH = 20;
    /// The first index of a bitmap word, far inside of 2^20 leaves.
    uint32 private constant INDEX = 0x8a300;
    uint32 private constant WORD = 256;

    address private _newcomer = account("newcomer");
    address private _holder = account("holder");

    function setUp() public override {
        super.setUp();
        token.mint(_holder, PRICE);
        token.mint(buyer, 1);
    }

    function snapshot(string memory name) private {
        vm.snapshotGasLastCall("Gas", name);
    }

    /* BATCHES */

    function test_Anchor() external {
        uint64 task = aTask(1000 * PRICE);
        anchor(aBigBatch(0, task));
        anchor(aBigBatch(1, task));
        snapshot("anchor: one key");
        anchor(aPaidBatch(2, task, PRICE, 0));
        snapshot("anchor: points only");
        anchor(aBatch(3));
        snapshot("anchor: no rewards");
        bytes[] memory calls = new bytes[](10);
        for (uint64 i = 0; i < calls.length; ++i) {
            Batch memory batch = aBigBatch(4 + i, task);
            calls[i] = abi.encodeCall(log.anchor, (batch, attest(batch)));
        }
        log.multicall(calls);
        snapshot("anchor: 10 by multicall");
    }

    function test_AnchorByQuorum() external {
        (address[] memory members, uint256[] memory keys) = threeMembers();
        AttestorQuorum quorum = Deploy.attestorQuorum(members, 2);
        vm.prank(provider);
        log.setAttestor(address(quorum));
        uint64 task = aTask(1000 * PRICE);
        for (uint64 number = 0; number < 2; ++number) {
            Batch memory batch = aBigBatch(number, task);
            bytes32 digest = log.digestOf(batch);
            log.anchor(batch, bytes.concat(sign(keys[0], digest), sign(keys[2], digest)));
        }
        snapshot("anchor: quorum 2 of 3");
    }

    /// @dev 65,536 events, one debit, points and wallet rewards.
    function aBigBatch(uint64 number, uint64 task) private view returns (Batch memory batch) {
        batch = aPaidBatch(number, task, PRICE, 64 * PRICE);
        batch.eventCount = 65_536;
    }

    function threeMembers() private pure returns (address[] memory members, uint256[] memory keys) {
        members = new address[](3);
        keys = new uint256[](3);
        for (uint256 i = 0; i < 3; ++i) {
            keys[i] = keyOf(i == 0 ? "a" : i == 1 ? "b" : "c");
            members[i] = vm.addr(keys[i]);
        }
        for (uint256 i = 0; i < 3; ++i) {
            for (uint256 j = i + 1; j < 3; ++j) {
                if (members[j] < members[i]) {
                    (members[i], members[j]) = (members[j], members[i]);
                    (keys[i], keys[j]) = (keys[j], keys[i]);
                }
            }
        }
    }

    /* CLAIMS */

    function test_Claims() external {
        // Four neighbours: one bitmap word.
        address[4] memory payees = [_newcomer, account("another newcomer"), _holder, _newcomer];
        ProvenanceEvent[] memory events = new ProvenanceEvent[](4);
        for (uint32 i = 0; i < 4; ++i) {
            events[i] = anEvent(INDEX + i, payees[i], PRICE);
        }
        Claim[] memory claims = claimsOf(events, aTask(10_000 * PRICE));
        claim(claims[0]);
        snapshot("claim: depth 20, first of a word, new holder");
        claim(claims[1]);
        snapshot("claim: depth 20, later, new holder");
        claim(claims[2]);
        snapshot("claim: depth 20, later, holder");
        assertEq(token.balanceOf(_newcomer), PRICE);
        assertEq(token.balanceOf(_holder), 2 * PRICE);
    }

    function test_FirstClaimByAHolder() external {
        claim(claimsOf(one(anEvent(INDEX, _holder, PRICE)), aTask(10_000 * PRICE))[0]);
        snapshot("claim: depth 20, first of a word, holder");
        assertEq(token.balanceOf(_holder), 2 * PRICE);
    }

    function test_ClaimsOfNeighbours() external {
        claimTwenty(claimsOf(twentyEvents(1), aTask(10_000 * PRICE)), "one bitmap word");
    }

    function test_ClaimsOfOneBatch() external {
        claimTwenty(claimsOf(twentyEvents(WORD), aTask(10_000 * PRICE)), "20 words of one batch");
    }

    function test_ClaimsOfManyBatches() external {
        ProvenanceEvent[] memory events = twentyEvents(WORD);
        uint64 task = aTask(100_000 * PRICE);
        Claim[] memory claims = new Claim[](events.length);
        for (uint256 i = 0; i < claims.length; ++i) {
            claims[i] = claimsOf(one(events[i]), task)[0];
        }
        claimTwenty(claims, "20 batches");
    }

    function claim(Claim memory c) private {
        log.claim(c.provider, c.number, c.e, c.proof);
    }

    function claimTwenty(Claim[] memory claims, string memory arrangement) private {
        assertEq(token.balanceOf(_newcomer), 0);
        log.claimMany(claims);
        snapshot(string.concat("claimMany: 20 of a payee, ", arrangement));
        assertEq(token.balanceOf(_newcomer), 20 * PRICE);
    }

    /// @dev One payee's, every `step` indices.
    function twentyEvents(uint32 step) private view returns (ProvenanceEvent[] memory events) {
        events = new ProvenanceEvent[](20);
        for (uint32 i = 0; i < events.length; ++i) {
            events[i] = anEvent(INDEX + i * step, _newcomer, PRICE);
        }
    }

    function one(ProvenanceEvent memory e) private pure returns (ProvenanceEvent[] memory events) {
        events = new ProvenanceEvent[](1);
        events[0] = e;
    }

    /// @dev Anchors a batch of 2^20 events with these side by side, and gives what claims them.
    function claimsOf(ProvenanceEvent[] memory events, uint64 task) private returns (Claim[] memory claims) {
        uint256 size = 1;
        while (size < events.length) size *= 2;
        bytes32[] memory leaves = new bytes32[](size);
        for (uint256 i = 0; i < size; ++i) {
            leaves[i] = i < events.length ? log.leafOf(events[i]) : keccak256(abi.encode("another's leaf", i));
        }
        Batch memory batch = aPaidBatch(log.providerOf(provider).nextBatch, task, PRICE, 64 * PRICE);
        (batch.root, batch.eventCount) = (leaves.rootOf(DEPTH), 1 << 20);
        anchor(batch);
        claims = new Claim[](events.length);
        for (uint256 i = 0; i < claims.length; ++i) {
            claims[i] = Claim({provider: provider, number: batch.number, e: events[i], proof: leaves.proofOf(i, DEPTH)});
        }
    }

    /* TASKS */

    function test_Tasks() external {
        fund(sponsor, address(log), 10 * PRICE);
        vm.prank(sponsor);
        log.createTask(provider, PRICE, uint64(NOW + 1 days), "terms", "ipfs://t", PRICE);
        vm.prank(sponsor);
        log.createTask(provider, PRICE, uint64(NOW + 1 days), "terms", "ipfs://t", PRICE);
        snapshot("createTask");
        vm.prank(sponsor);
        log.fundTask(1, 2 * PRICE);
        snapshot("fundTask");
        anchor(aPaidBatch(0, 1, PRICE, PRICE));
        log.sweepPoints(provider);
        snapshot("sweepPoints: first");
        anchor(aPaidBatch(1, 1, PRICE, 0));
        log.sweepPoints(provider);
        snapshot("sweepPoints: later");
    }

    /* SALES */

    function test_Sales() external {
        uint256 ipId = register(aVersion(10));
        snapshot("registerDataset");
        uint64 offerId = offer(ipId, someTerms());
        offer(ipId, someTerms());
        snapshot("publishOffer");
        sell(ipId, offerId, 1000e6);
        sell(ipId, offerId, 1000e6);
        snapshot("buy: 10 members");
        addVersion(ipId, aVersion(1_000_000));
        snapshot("registerVersion");
        sell(ipId, offerId, 1000e6);
        sell(ipId, offerId, 1000e6);
        snapshot("buy: 1,000,000 members");
        sellWithPermit(offerId, 2, "a stranger");
        snapshot("buyWithPermit: new holder");
        addVersion(ipId, aVersion(10));
        sellWithPermit(offerId, 3, "another stranger");
        snapshot("buyWithPermit: first of a version, new holder");
    }

    function sellWithPermit(uint64 offerId, uint32 version, string memory name) private {
        address who = account(name);
        token.mint(who, 2000e6);
        Permit memory permit = permitOf(keyOf(name), address(licenses), 1000e6);
        vm.prank(who);
        licenses.buyWithPermit(offerId, version, 1000e6, who, permit);
    }

    function aVersion(uint32 count) private view returns (VersionContent memory content) {
        (content,) = aVersionWith(aMember(count, _newcomer, 10), count);
    }

    /// @dev A version of `count` members of equal weight in a tree of depth 20, a fifth of them paid in points.
    function aVersionWith(Member memory member, uint32 count)
        private
        view
        returns (VersionContent memory content, bytes32[] memory proof)
    {
        bytes32[] memory leaves = new bytes32[](1);
        leaves[0] = ips.memberLeafOf(member);
        (content.root, proof) = (leaves.rootOf(DEPTH), leaves.proofOf(0, DEPTH));
        content.memberCount = count;
        content.totalWeight = uint128(count) * member.weight;
        content.pointsWeight = content.totalWeight / 5;
        content.purposes = 31;
        content.manifestCid = CID;
    }

    function test_ClaimsOfRoyalties() external {
        RoyaltyClaim[] memory claims = claimsOfVersions(21);
        claimRoyalty(claims[20]);
        snapshot("claimRoyalty: depth 20, first, new holder");
        assertTrue(token.balanceOf(_newcomer) > 0);
        sell(claims[20].ipId, 1, 1000e6);
        claims[20].proof = new bytes32[](0);
        claimRoyalty(claims[20]);
        snapshot("claimRoyalty: later");
    }

    function test_ClaimsOfManyRoyalties() external {
        RoyaltyClaim[] memory claims = claimsOfVersions(20);
        licenses.claimRoyalties(claims);
        snapshot("claimRoyalties: 20 versions, depth 20, first, new holder");
        // Only the newest version is for sale, so later claims come from one version's members.
        uint256 before = token.balanceOf(_newcomer);
        sell(claims[19].ipId, 1, 1000e6);
        licenses.claimRoyalties(claims);
        assertTrue(token.balanceOf(_newcomer) > before);
    }

    function claimRoyalty(RoyaltyClaim memory c) private {
        licenses.claimRoyalty(c.ipId, c.version, c.member, c.proof);
    }

    /// @dev One member of every version, all of them sold once.
    function claimsOfVersions(uint32 count) private returns (RoyaltyClaim[] memory claims) {
        claims = new RoyaltyClaim[](count);
        uint256 ipId = 0;
        for (uint32 i = 0; i < count; ++i) {
            Member memory member = aMember(i, _newcomer, 10);
            (VersionContent memory content, bytes32[] memory proof) = aVersionWith(member, 1000);
            if (i == 0) {
                ipId = register(content);
                offer(ipId, someTerms());
            } else {
                addVersion(ipId, content);
            }
            sell(ipId, 1, 1000e6);
            claims[i] = RoyaltyClaim({ipId: ipId, version: i + 1, member: member, proof: proof});
        }
    }

    /* DISPUTES */

    function test_Disputes() external {
        vm.prank(provider);
        log.setChallengeWindow(1 days);
        ProvenanceEvent[] memory events = new ProvenanceEvent[](4);
        for (uint32 i = 0; i < 4; ++i) {
            events[i] = anEvent(INDEX + i, _newcomer, PRICE);
        }
        Claim[] memory claims = claimsOf(events, aTask(10_000 * PRICE));
        fund(buyer, address(disputes), 100 * PRICE);
        vm.prank(buyer);
        disputes.depositBond(provider, 50 * PRICE);
        for (uint256 i = 0; i < 4; ++i) {
            challenge(claims[i]);
        }
        snapshot("challenge: depth 20, a wallet reward");
        rule(1, true);
        rule(2, true);
        snapshot("rule: upheld");
        rule(3, false);
        rule(4, false);
        snapshot("rule: rejected");
        disputes.payCredit(address(token), _newcomer);
        snapshot("payCredit: new holder");
        assertEq(token.balanceOf(_newcomer), 4 * PRICE);
    }

    function challenge(Claim memory c) private {
        vm.prank(buyer);
        disputes.challenge(c.provider, c.number, c.e, c.proof, Ground.Duplicate, "evidence", "ipfs://evidence");
    }

    function rule(uint256 disputeId, bool upheld) private {
        vm.prank(arbiter);
        disputes.rule(disputeId, upheld, 1, "seen before");
    }

    /* REGISTRATION */

    function test_Registration() external {
        PointsTreasury other = Deploy.pointsTreasury(address(log), stranger, address(token), operator);
        vm.prank(stranger);
        log.registerProvider("other", attestor, address(other), address(token), 1 days);
        snapshot("registerProvider");
        ProvenanceEvent[] memory events = new ProvenanceEvent[](2);
        (events[0], events[1]) = (anEvent(INDEX, payee, 0), anEvent(INDEX + 1, payee, 0));
        Claim[] memory claims = claimsOf(events, aTask(10_000 * PRICE));
        for (uint256 i = 0; i < 2; ++i) {
            vm.prank(payee);
            ips.registerContribution(provider, 0, claims[i].e, claims[i].proof);
        }
        snapshot("registerContribution: depth 20");
    }
}

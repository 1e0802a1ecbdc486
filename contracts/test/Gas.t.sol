// SPDX-License-Identifier: MIT OR Apache-2.0
// Gas of the calls that users pay for, as whole transactions; forge writes them to contracts/snapshots/.
pragma solidity ^0.8.28;

import {Batch, ProvenanceEvent} from "../src/interfaces/IProvenanceLog.sol";
import {Member, VersionContent} from "../src/interfaces/IIPRegistry.sol";
import {Permit} from "../src/interfaces/IRewardPool.sol";
import {Fixture} from "./Fixture.sol";
import {StandardMerkleTree} from "./StandardMerkleTree.sol";

contract GasTest is Fixture {
    using StandardMerkleTree for bytes32[];

    ProvenanceEvent[] private _events;
    Member[] private _members;

    function snapshot(string memory name) private {
        vm.snapshotGasLastCall("Gas", name);
    }

    function test_Batches() external {
        uint64 task = aTask(100 * PRICE);
        for (uint32 i = 0; i < 64; ++i) {
            _events.push(anEvent(i, payee, PRICE));
        }
        bytes32[] memory tree = treeOf(_events);
        // The first batch pays for the slots that only the first one fills.
        anchor(aPaidBatch(0, task, PRICE, PRICE));
        Batch memory batch = aPaidBatch(1, task, PRICE, 64 * PRICE);
        (batch.root, batch.eventCount) = (tree[0], 1 << 20);
        anchor(batch);
        snapshot("anchor: one debit, points and wallet");
        anchor(aPaidBatch(2, task, PRICE, 0));
        snapshot("anchor: one debit, points only");
        anchor(aBatch(3));
        snapshot("anchor: no rewards");

        pool.claim(provider, 1, _events[0], tree.proofOf(log.leafOf(_events[0])));
        snapshot("claim: first of 256, new payee, depth 6");
        pool.claim(provider, 1, _events[1], tree.proofOf(log.leafOf(_events[1])));
        snapshot("claim: next, depth 6");
    }

    function test_Tasks() external {
        fund(sponsor, address(pool), 10 * PRICE);
        vm.prank(sponsor);
        pool.createTask(provider, PRICE, uint64(NOW + 1 days), "terms", "ipfs://t", PRICE);
        vm.prank(sponsor);
        pool.createTask(provider, PRICE, uint64(NOW + 1 days), "terms", "ipfs://t", PRICE);
        snapshot("createTask");
        vm.prank(sponsor);
        pool.fundTask(1, PRICE);
        snapshot("fundTask");
    }

    function test_Sales() external {
        for (uint256 i = 0; i < 64; ++i) {
            _members.push(aMember(i, i % 2 == 0 ? payee : address(0), uint96(1 + i)));
        }
        VersionContent memory content = contentOf(_members);
        uint256 ipId = register(content);
        snapshot("registerDataset");
        addVersion(ipId, content);
        snapshot("registerVersion");
        uint64 offerId = offer(ipId, someTerms());
        snapshot("publishOffer");
        sell(ipId, offerId, 1000e6);
        sell(ipId, offerId, 1000e6);
        snapshot("buy");
        token.mint(stranger, 1000e6);
        Permit memory permit = permitOf(keyOf("stranger"), address(licenses), 1000e6);
        vm.prank(stranger);
        licenses.buyWithPermit(offerId, 2, 1000e6, stranger, permit);
        snapshot("buyWithPermit: new holder");

        licenses.claimRoyalty(ipId, 2, _members[2], proofOf(_members, 2));
        licenses.claimRoyalty(ipId, 2, _members[4], proofOf(_members, 4));
        snapshot("claimRoyalty: depth 6");
        sell(ipId, offerId, 1000e6);
        licenses.claimRoyaltyAgain(ipId, 2, _members[4].dataId);
        snapshot("claimRoyaltyAgain");
    }

    function test_Registration() external {
        vm.prank(stranger);
        log.registerProvider("other", attestor, address(treasury), address(token));
        snapshot("registerProvider");
        ProvenanceEvent memory e = anEvent(0, payee, 0);
        Batch memory batch = aBatch(0);
        batch.root = log.leafOf(e);
        anchor(batch);
        vm.prank(payee);
        ips.registerContribution(provider, 0, e, new bytes32[](0));
        snapshot("registerContribution");
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
// What the invariant tests know of the world: three providers, two tokens, people, and what each contract must hold.
pragma solidity ^0.8.28;

import {DevToken} from "../../src/dev/DevToken.sol";
import {PointsTreasury} from "../../src/PointsTreasury.sol";
import {ProvenanceEvent} from "../../interfaces/IProvenanceLog.sol";
import {Dispute, DisputeState} from "../../interfaces/IDisputes.sol";
import {Member} from "../../interfaces/IIPRegistry.sol";
import {LicenseView} from "../../interfaces/ILicenseRegistry.sol";
import {Deploy} from "../Deploy.sol";
import {Fixture} from "../Fixture.sol";
import {StandardMerkleTree} from "../StandardMerkleTree.sol";

struct Random {
    uint256 state;
}

using {next, below} for Random global;

function next(Random memory r) pure returns (uint256) {
    r.state = uint256(keccak256(abi.encode(r.state)));
    return r.state;
}

/// @dev 0..limit-1.
function below(Random memory r, uint256 limit) pure returns (uint256) {
    return r.next() % limit;
}

/// @notice The model that the contracts are compared with: it learns of money from what actions did, not from storage.
abstract contract World is Fixture {
    using StandardMerkleTree for bytes32[];

    uint256 internal constant PROVIDERS = 3;
    uint256 internal constant PAYEES = 4;
    bytes internal constant EMPTY = "";

    /// What an event says, in two bits; the third bit picks one of the batch's two tasks.
    uint256 internal constant REGISTERED = 0;
    uint256 internal constant REJECTED = 1;
    uint256 internal constant POINTS = 2;
    uint256 internal constant WALLET = 3;

    /// How a batch lies about its events.
    uint8 internal constant LIE_WALLET_TOTAL = 1;
    uint8 internal constant LIE_INDEX = 2;
    uint8 internal constant LIE_REWARD = 3;
    uint8 internal constant LIE_TASK = 4;

    /// How a version lies about its members.
    uint8 internal constant LIE_REPEATED = 1;
    uint8 internal constant LIE_WEIGHT = 2;

    struct ProviderModel {
        address self;
        DevToken token;
        PointsTreasury treasury;
        uint256 attestorKey;
        /// 0 until the first rotation.
        uint256 formerKey;
        uint64 nextBatch;
        uint32 challengeWindow;
        uint32 versions;
        uint256 ipId;
        uint256 accrued;
        /// Points issued and not redeemed, and gifts.
        uint256 backing;
        uint128 bond;
        uint128 requested;
        uint64 withdrawableAt;
        uint256 disputesOpen;
    }

    struct TaskModel {
        uint256 provider;
        address sponsor;
        uint128 price;
        uint128 escrow;
        uint64 closesAt;
    }

    struct BatchModel {
        uint256 provider;
        uint256 seed;
        uint256 kinds;
        uint64[2] tasks;
        uint64 number;
        uint64 challengeUntil;
        uint32 count;
        uint8 lie;
        uint128 walletTotal;
        uint128 paid;
        bytes32 root;
    }

    struct DisputeModel {
        uint256 provider;
        DisputeState state;
        address challenger;
        address payee;
        uint128 bond;
        uint128 held;
        uint128 refund;
        uint64 ruleBefore;
    }

    struct VersionModel {
        uint256 provider;
        uint256 seed;
        uint32 number;
        uint32 purposes;
        uint8 lie;
        bool reported;
        uint256 totalWeight;
        uint256 walletWeight;
        /// What members that have not claimed yet may weigh.
        uint256 unproven;
        uint256 paidIn;
        uint256 paidOut;
    }

    struct OfferModel {
        uint256 provider;
        uint128 price;
        uint64 duration;
        uint32 purposes;
        uint16 contributorBps;
        bool transferable;
        bool closed;
    }

    struct LicenseModel {
        uint64 offer;
        uint32 version;
        address holder;
        uint64 endsAt;
        bool revoked;
    }

    ProviderModel[PROVIDERS] internal providers;
    DevToken[2] internal tokens;
    address[] internal people;
    address[PAYEES] internal payees;
    uint256 internal cardKey = keyOf("buyer without allowance");

    /// By id; number 0 is empty, but in `batches` and `versions`.
    TaskModel[] internal tasks;
    BatchModel[] internal batches;
    DisputeModel[] internal cases;
    VersionModel[] internal versions;
    OfferModel[] internal offers;
    LicenseModel[] internal sold;

    /// What a contract must hold, and what it was given without being asked.
    mapping(address holder => mapping(DevToken token => uint256)) internal holds;
    mapping(address holder => mapping(DevToken token => uint256)) internal gifts;
    /// Everything that a person ever got: people pay with what they are given for it, so it is their balance.
    mapping(address who => mapping(DevToken token => uint256)) internal earned;
    mapping(DevToken token => mapping(address who => uint256)) internal credits;
    /// Whether the reward at an index was claimed or held.
    mapping(uint256 batch => mapping(uint32 index => bool)) internal taken;
    mapping(uint256 batch => mapping(bytes32 leaf => bool)) internal disputed;
    mapping(uint256 version => Member[]) internal members;
    mapping(uint256 version => mapping(bytes32 leaf => uint256)) internal royaltyPaid;
    mapping(uint256 version => mapping(bytes32 leaf => bool)) internal proven;
    bytes32[] internal payouts;
    mapping(bytes32 payoutId => uint256) internal payoutProvider;
    /// Makes ids differ where the same seed comes again.
    uint256 private _ids;
    bool internal logPaused;
    bool internal salesPaused;

    constructor() {
        setUp();
        tokens = [token, Deploy.devToken()];
        model(0, provider, attestorKey, tokens[0], treasury, 0);
        string[2] memory names = ["second", "third"];
        for (uint256 i = 0; i < 2; ++i) {
            address self = account(names[i]);
            uint256 key = keyOf(string.concat("attestor of the ", names[i]));
            uint32 window = i == 0 ? 4 days : 1 days;
            PointsTreasury its = registerProvider(self, names[i], vm.addr(key), address(tokens[i]), window);
            model(i + 1, self, key, tokens[i], its, window);
        }
        string[11] memory who = [
            "Ada", "Ben", "Cho", "Dae", "sponsor", "sponsor 2", "challenger", "challenger 2", "buyer", "buyer 2", "rail"
        ];
        for (uint256 i = 0; i < who.length; ++i) {
            people.push(account(who[i]));
            if (i < PAYEES) payees[i] = people[i];
            for (uint256 t = 0; t < 2; ++t) {
                address[3] memory spenders = [address(log), address(licenses), address(disputes)];
                for (uint256 s = 0; s < 3; ++s) {
                    vm.prank(people[i]);
                    tokens[t].approve(spenders[s], type(uint256).max);
                }
            }
        }
        people.push(accountOf(cardKey, "buyer without allowance"));
        tasks.push();
        cases.push();
        offers.push();
        sold.push();
    }

    function model(uint256 p, address self, uint256 key, DevToken its, PointsTreasury itsTreasury, uint32 window)
        private
    {
        ProviderModel storage m = providers[p];
        (m.self, m.attestorKey, m.token, m.treasury, m.challengeWindow) = (self, key, its, itsTreasury, window);
        m.ipId = ips.datasetIdOf(self, "voices");
    }

    /* CHECKS AFTER EACH ACTION */

    /// @notice What holds for everything is compared in sums; of each list one entry is looked at, another one each time.
    function check() external view {
        uint256 turn = uint256(keccak256(abi.encode(block.timestamp, tokens[0].totalSupply(), tokens[1].totalSupply())));
        for (uint256 t = 0; t < 2; ++t) {
            // P1: exactly, as all that comes in is counted
            assertEq(tokens[t].balanceOf(address(log)), holds[address(log)][tokens[t]]);
            assertEq(tokens[t].balanceOf(address(licenses)), holds[address(licenses)][tokens[t]]);
            assertEq(tokens[t].balanceOf(address(disputes)), holds[address(disputes)][tokens[t]]);
        }
        for (uint256 p = 0; p < PROVIDERS; ++p) {
            ProviderModel storage m = providers[p];
            assertEq(m.treasury.backing(), m.backing); // P1
            assertEq(log.providerOf(m.self).nextBatch, m.nextBatch); // P4, P10
        }
        assertEq(licenses.licenseCount(), sold.length - 1); // P10
        if (batches.length > 0) checkBatch(turn % batches.length);
        if (sold.length > 1) checkLicense(1 + turn % (sold.length - 1));
        if (cases.length > 1) checkCase(1 + turn % (cases.length - 1));
        if (versions.length > 0) checkVersion(turn % versions.length);
    }

    /// @notice The same for every entry, and each sum from its parts as the contracts tell them.
    function checkAll() external view {
        uint256[2] memory inLog;
        uint256[2] memory inDisputes;
        for (uint64 id = 1; id < tasks.length; ++id) {
            assertEq(log.taskOf(id).escrow, tasks[id].escrow);
            inLog[tokenIndex(tasks[id].provider)] += tasks[id].escrow;
        }
        for (uint256 b = 0; b < batches.length; ++b) {
            checkBatch(b);
            inLog[tokenIndex(batches[b].provider)] += batches[b].walletTotal - batches[b].paid;
        }
        for (uint256 i = 1; i < sold.length; ++i) {
            checkLicense(i);
        }
        for (uint256 i = 1; i < cases.length; ++i) {
            checkCase(i);
            if (cases[i].state == DisputeState.Open) {
                inDisputes[tokenIndex(cases[i].provider)] += cases[i].bond + cases[i].held;
            }
        }
        for (uint256 v = 0; v < versions.length; ++v) {
            checkVersion(v);
        }
        for (uint256 p = 0; p < PROVIDERS; ++p) {
            ProviderModel storage m = providers[p];
            assertEq(log.providerOf(m.self).pointsAccrued, m.accrued);
            assertEq(disputes.bondOf(m.self), m.bond);
            (uint128 requested,) = disputes.withdrawalOf(m.self);
            assertEq(requested, m.requested);
            assertEq(disputes.openDisputesOf(m.self), m.disputesOpen);
            inLog[tokenIndex(p)] += m.accrued;
            inDisputes[tokenIndex(p)] += m.bond;
            checkPerson(m.self);
        }
        for (uint256 t = 0; t < 2; ++t) {
            for (uint256 i = 0; i < people.length; ++i) {
                inDisputes[t] += disputes.creditOf(address(tokens[t]), people[i]);
            }
            assertEq(inLog[t] + gifts[address(log)][tokens[t]], holds[address(log)][tokens[t]]);
            assertEq(inDisputes[t] + gifts[address(disputes)][tokens[t]], holds[address(disputes)][tokens[t]]);
        }
        for (uint256 i = 0; i < people.length; ++i) {
            checkPerson(people[i]);
        }
    }

    /// P2, P4
    function checkBatch(uint256 i) private view {
        BatchModel storage b = batches[i];
        address self = providers[b.provider].self;
        assertEq(log.rootOf(self, b.number), b.root);
        assertLe(b.paid, b.walletTotal);
        assertEq(log.unclaimedOf(self, b.number), b.walletTotal - b.paid);
        assertEq(log.challengeUntilOf(self, b.number), b.challengeUntil);
    }

    /// P8
    function checkLicense(uint256 id) private view {
        LicenseModel storage l = sold[id];
        LicenseView memory said = licenses.verify(id);
        assertTrue(said.active == (!l.revoked && block.timestamp < l.endsAt));
        assertEq(said.holder, l.holder);
        assertEq(said.version, l.version);
    }

    /// P15
    function checkCase(uint256 id) private view {
        Dispute memory said = disputes.disputeOf(id);
        assertTrue(said.state == cases[id].state);
        assertEq(said.held, cases[id].held);
        assertEq(said.bond, cases[id].bond);
        assertEq(said.refund, cases[id].refund);
    }

    /// P6; and what members are still due of an honest version is there.
    function checkVersion(uint256 i) private view {
        VersionModel storage v = versions[i];
        assertLe(v.paidOut, v.paidIn);
        assertTrue(ips.versionOf(providers[v.provider].ipId, v.number).withdrawn == v.reported);
    }

    /// P9
    function checkPerson(address who) private view {
        for (uint256 t = 0; t < 2; ++t) {
            assertEq(tokens[t].balanceOf(who), earned[who][tokens[t]]);
            assertEq(disputes.creditOf(address(tokens[t]), who), credits[tokens[t]][who]);
        }
    }

    /* MONEY */

    /// @dev Gives somebody what the next call takes.
    function give(address who, DevToken its, uint256 amount) internal {
        its.mint(who, amount);
    }

    /// @dev Takes back what a refused call did not take.
    function takeBack(address who, DevToken its, uint256 amount) internal {
        vm.prank(who);
        its.transfer(address(0xdead), amount);
    }

    /// @dev Books a payment to somebody, which must have arrived by now.
    function book(address who, DevToken its, uint256 amount) internal {
        earned[who][its] += amount;
        assertEq(its.balanceOf(who), earned[who][its]);
    }

    function tokenIndex(uint256 p) internal view returns (uint256) {
        return address(providers[p].token) == address(tokens[0]) ? 0 : 1;
    }

    /* CALLS */

    function newId(Random memory r) internal returns (uint256) {
        return uint256(keccak256(abi.encode(r.next(), ++_ids)));
    }

    /// @dev Calls where it must be refused, for this reason.
    function refused(address who, address target, bytes memory call, bytes4 reason) internal {
        vm.prank(who);
        (bool ok, bytes memory data) = target.call(call);
        assertFalse(ok);
        assertEq(bytes32(bytes4(data)), bytes32(reason));
    }

    function payeeAt(Random memory r) internal view returns (address) {
        return payees[r.below(PAYEES)];
    }

    /// @dev When something ends or becomes possible.
    function anEdge(Random memory r) internal view returns (uint64) {
        uint256 i = r.below(4);
        if (i == 0) return sold[r.below(sold.length)].endsAt;
        if (i == 1) return batches.length > 0 ? batches[r.below(batches.length)].challengeUntil : 0;
        if (i == 2) return cases[r.below(cases.length)].ruleBefore;
        return providers[r.below(PROVIDERS)].withdrawableAt;
    }

    /* TREES */

    /// @notice Event `i` of a batch, made of the batch's seed.
    function eventOf(BatchModel memory b, uint32 i) internal view returns (ProvenanceEvent memory e) {
        bytes32 hash = keccak256(abi.encode(b.seed, i));
        uint256 kind = (b.kinds >> (4 * i)) & 3;
        e.index = b.lie == LIE_INDEX && i == 1 ? 0 : i;
        e.dataId = bytes16(hash);
        e.kind = kind == REGISTERED ? 0 : kind == REJECTED ? 2 : 1;
        (e.contributor, e.contentHash, e.consentId, e.commitment) = (hash, hash, hash, hash);
        if (kind == REGISTERED) return e;
        e.sequence = 1;
        e.taskId = b.tasks[(b.kinds >> (4 * i + 2)) & 1];
        if (kind == REJECTED) return e;
        e.reward = tasks[e.taskId].price;
        if (b.lie == LIE_REWARD && i == 0) e.reward *= 3;
        if (b.lie == LIE_TASK && i == 0) e.taskId = 0;
        if (kind == WALLET) e.payee = payees[uint256(hash) % PAYEES];
    }

    function leafAt(BatchModel memory b, uint32 i) internal view returns (bytes32) {
        return keccak256(bytes.concat(keccak256(abi.encode(eventOf(b, i)))));
    }

    function treeOf(BatchModel memory b) internal view returns (bytes32[] memory) {
        bytes32[] memory leaves = new bytes32[](b.count);
        for (uint32 i = 0; i < b.count; ++i) {
            leaves[i] = leafAt(b, i);
        }
        return leaves.build();
    }

    function proofOf(BatchModel memory b, uint32 i) internal view returns (bytes32[] memory) {
        return treeOf(b).proofOf(leafAt(b, i));
    }

    function leafOf(Member memory member) internal pure returns (bytes32) {
        return keccak256(bytes.concat(keccak256(abi.encode(member))));
    }

    function memberTree(Member[] memory those) internal pure returns (bytes32[] memory) {
        bytes32[] memory leaves = new bytes32[](those.length);
        for (uint256 i = 0; i < those.length; ++i) {
            leaves[i] = leafOf(those[i]);
        }
        return leaves.build();
    }
}

// SPDX-License-Identifier: MIT OR Apache-2.0
// AttestorQuorum: enough distinct members, and an answer to whatever is asked.
pragma solidity ^0.8.28;

import {AttestorQuorum} from "../src/AttestorQuorum.sol";
import {IAttestorQuorum} from "../interfaces/IAttestorQuorum.sol";
import {Deploy} from "./Deploy.sol";
import {Test} from "./Vm.sol";

contract AttestorQuorumTest is Test {
    bytes4 private constant VALID = 0x1626ba7e;
    bytes4 private constant INVALID = 0xffffffff;
    uint256 private constant CURVE_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141;
    bytes32 private constant DIGEST = keccak256("digest");

    AttestorQuorum private _quorum;
    /// Ascending by address.
    uint256[3] private _keys;
    address[] private _members;

    function setUp() external {
        _keys = [keyOf("a"), keyOf("b"), keyOf("c")];
        for (uint256 i = 0; i < 3; ++i) {
            for (uint256 j = i + 1; j < 3; ++j) {
                if (vm.addr(_keys[j]) < vm.addr(_keys[i])) (_keys[i], _keys[j]) = (_keys[j], _keys[i]);
            }
        }
        for (uint256 i = 0; i < 3; ++i) {
            _members.push(vm.addr(_keys[i]));
        }
        _quorum = Deploy.attestorQuorum(_members, 2);
    }

    function answer(bytes memory signature) private view returns (bytes4) {
        return _quorum.isValidSignature(DIGEST, signature);
    }

    function assertAnswer(bytes memory signature, bytes4 expected) private view {
        assertEq(bytes32(answer(signature)), bytes32(expected));
    }

    function test_RevertWhen_ThresholdIsZeroOrAboveMembers() external {
        vm.expectRevert(abi.encodeWithSelector(IAttestorQuorum.ThresholdInvalid.selector, 0, 3));
        Deploy.attestorQuorum(_members, 0);
        vm.expectRevert(abi.encodeWithSelector(IAttestorQuorum.ThresholdInvalid.selector, 4, 3));
        Deploy.attestorQuorum(_members, 4);
        vm.expectRevert(abi.encodeWithSelector(IAttestorQuorum.ThresholdInvalid.selector, 1, 0));
        Deploy.attestorQuorum(new address[](0), 1);
        vm.expectRevert(abi.encodeWithSelector(IAttestorQuorum.ThresholdInvalid.selector, 0, 0));
        Deploy.attestorQuorum(new address[](0), 0);
    }

    function test_RevertWhen_MembersAreUnorderedOrDoubleOrZero() external {
        address[] memory members = new address[](2);
        (members[0], members[1]) = (_members[1], _members[0]);
        vm.expectRevert(abi.encodeWithSelector(IAttestorQuorum.MembersUnordered.selector, _members[1], _members[0]));
        Deploy.attestorQuorum(members, 1);
        members[1] = members[0];
        vm.expectRevert(abi.encodeWithSelector(IAttestorQuorum.MembersUnordered.selector, _members[1], _members[1]));
        Deploy.attestorQuorum(members, 1);
        members[0] = address(0);
        vm.expectRevert(abi.encodeWithSelector(IAttestorQuorum.MembersUnordered.selector, address(0), address(0)));
        Deploy.attestorQuorum(members, 1);
    }

    function test_WhenDeployed() external view {
        assertEq(_quorum.threshold(), 2);
        assertEq(_quorum.members().length, 3);
        assertEq(_quorum.members()[2], _members[2]);
        assertTrue(_quorum.isAttestor(_members[0]));
        assertFalse(_quorum.isAttestor(address(this)));
    }

    function test_WhenAnyTwoOfThreeSigned() external view {
        for (uint256 i = 0; i < 3; ++i) {
            for (uint256 j = 0; j < 3; ++j) {
                assertAnswer(bytes.concat(sign(_keys[i], DIGEST), sign(_keys[j], DIGEST)), i < j ? VALID : INVALID);
            }
        }
    }

    function test_WhenOnlyOneSigned() external view {
        assertAnswer(sign(_keys[0], DIGEST), INVALID);
    }

    function test_WhenThereIsOneSignatureTooMany() external view {
        assertAnswer(bytes.concat(sign(_keys[0], DIGEST), sign(_keys[1], DIGEST), sign(_keys[2], DIGEST)), INVALID);
    }

    function test_WhenOneSignerIsNoMember() external view {
        uint256 key = keyOf("x");
        bytes memory member = sign(_keys[1], DIGEST);
        bytes memory other = sign(key, DIGEST);
        assertAnswer(vm.addr(key) < _members[1] ? bytes.concat(other, member) : bytes.concat(member, other), INVALID);
    }

    function test_WhenAnotherDigestWasSigned() external view {
        bytes32 other = keccak256("other");
        assertAnswer(bytes.concat(sign(_keys[0], other), sign(_keys[1], other)), INVALID);
    }

    /// P16: a signature's twin, and other spellings of v, are none.
    function test_WhenASignatureIsMalleated() external view {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(_keys[0], DIGEST);
        bytes memory second = sign(_keys[1], DIGEST);
        bytes32 high = bytes32(CURVE_ORDER - uint256(s));
        assertAnswer(bytes.concat(abi.encodePacked(r, s, v), second), VALID);
        assertAnswer(bytes.concat(abi.encodePacked(r, high, v == 27 ? uint8(28) : uint8(27)), second), INVALID);
        assertAnswer(bytes.concat(abi.encodePacked(r, s, v - 27), second), INVALID);
        // One member's two spellings are not two members.
        assertAnswer(
            bytes.concat(abi.encodePacked(r, s, v), abi.encodePacked(r, high, v == 27 ? uint8(28) : uint8(27))), INVALID
        );
    }

    /// Every quorum of up to 8: exactly its threshold of members in ascending order is an answer, for this digest only.
    function testFuzz_WhenMOfNSigned(uint256 size, uint256 threshold, uint256 signers, bytes32 digest) external {
        size = bound(size, 1, 8);
        threshold = bound(threshold, 1, size);
        uint256[] memory keys = new uint256[](size);
        address[] memory members = new address[](size);
        for (uint256 i = 0; i < size; ++i) {
            keys[i] = uint256(keccak256(abi.encode("member", i)));
            for (uint256 j = i; j > 0 && vm.addr(keys[j]) < vm.addr(keys[j - 1]); --j) {
                (keys[j], keys[j - 1]) = (keys[j - 1], keys[j]);
            }
        }
        for (uint256 i = 0; i < size; ++i) {
            members[i] = vm.addr(keys[i]);
        }
        AttestorQuorum quorum = Deploy.attestorQuorum(members, threshold);
        bytes memory signature = "";
        uint256 count = 0;
        for (uint256 i = 0; i < size; ++i) {
            if (signers & (1 << i) == 0) continue;
            signature = bytes.concat(signature, sign(keys[i], digest));
            ++count;
        }
        assertEq(bytes32(quorum.isValidSignature(digest, signature)), bytes32(count == threshold ? VALID : INVALID));
        assertEq(bytes32(quorum.isValidSignature(~digest, signature)), bytes32(INVALID));
    }

    function testFuzz_WhenTheSignatureIsGarbage(bytes calldata garbage) external view {
        assertAnswer(garbage, INVALID);
        bytes memory padded = new bytes(130);
        for (uint256 i = 0; i < garbage.length && i < 130; ++i) {
            padded[i] = garbage[i];
        }
        assertAnswer(padded, INVALID);
    }
}

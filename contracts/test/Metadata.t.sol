// SPDX-License-Identifier: MIT OR Apache-2.0
// Metadata: JSON and XML stay well formed, whatever text goes in.
pragma solidity ^0.8.28;

import {Base64} from "@openzeppelin/contracts/utils/Base64.sol";
import {Metadata} from "../src/Metadata.sol";
import {Test} from "./Vm.sol";

/// @notice Reads the data URIs that tokens answer with.
abstract contract PageReader is Test {
    string private constant JSON_PREFIX = "data:application/json;base64,";
    string private constant SVG_PREFIX = "data:image/svg+xml;base64,";

    /// @dev The JSON of a token or collection; forge's parser refuses what is none.
    function jsonOf(string memory uri) internal pure returns (string memory) {
        return decoded(uri, JSON_PREFIX);
    }

    function svgOf(string memory json) internal pure returns (string memory) {
        return decoded(vm.parseJsonString(json, ".image"), SVG_PREFIX);
    }

    function decoded(string memory uri, string memory prefix) private pure returns (string memory) {
        bytes memory all = bytes(uri);
        bytes memory rest = new bytes(all.length - bytes(prefix).length);
        for (uint256 i = 0; i < all.length; ++i) {
            if (i < bytes(prefix).length) assertTrue(all[i] == bytes(prefix)[i]);
            else rest[i - bytes(prefix).length] = all[i];
        }
        return string(Base64.decode(string(rest)));
    }

    function contains(string memory text, string memory part) internal pure returns (bool) {
        return countOf(text, part) > 0;
    }

    function countOf(string memory text, string memory part) internal pure returns (uint256 count) {
        (bytes memory a, bytes memory b) = (bytes(text), bytes(part));
        for (uint256 i = 0; i + b.length <= a.length; ++i) {
            uint256 j = 0;
            while (j < b.length && a[i + j] == b[j]) ++j;
            if (j == b.length) ++count;
        }
    }

    /// @dev The card has its own tags only, no control characters, and no "&" that begins no entity.
    function checkCard(string memory svg, uint256 lines) internal pure {
        // svg, rect, title, group, each line; all but rect are closed.
        assertEq(countOf(svg, "<"), 7 + 2 * lines);
        assertEq(countOf(svg, ">"), 7 + 2 * lines);
        assertEq(countOf(svg, "<text "), 1 + lines);
        assertEq(countOf(svg, "</text>"), 1 + lines);
        assertEq(countOf(svg, "</svg>"), 1);
        uint256 entities = countOf(svg, "&amp;") + countOf(svg, "&lt;") + countOf(svg, "&gt;");
        assertEq(countOf(svg, "&"), entities + countOf(svg, "&quot;") + countOf(svg, "&#39;"));
        bool printable = true;
        for (uint256 i = 0; i < bytes(svg).length; ++i) {
            printable = printable && uint8(bytes(svg)[i]) >= 0x20;
        }
        assertTrue(printable);
    }

    /// @dev Any bytes as ASCII, control characters, quotes and all.
    function ascii(bytes memory raw) internal pure returns (string memory) {
        for (uint256 i = 0; i < raw.length; ++i) {
            raw[i] &= 0x7f;
        }
        return string(raw);
    }
}

contract MetadataTest is PageReader {
    /// Each bit has its word, in order; unknown bits have none.
    function testFuzz_PurposesInWords(uint32 purposes) external pure {
        string[5] memory names = ["train", "evaluate", "fine-tune", "redistribute", "commercial"];
        string memory words = Metadata.purposesInWords(purposes);
        uint256 known = 0;
        for (uint256 bit = 0; bit < 5; ++bit) {
            uint256 has = (purposes >> bit) & 1;
            assertEq(countOf(words, names[bit]), has);
            known += has;
        }
        assertEq(countOf(words, ", "), known == 0 ? 0 : known - 1);
        if (known == 0) assertEq(words, "none");
    }

    function test_PurposesInWords() external pure {
        assertEq(Metadata.purposesInWords(0), "none");
        assertEq(Metadata.purposesInWords(1), "train");
        assertEq(Metadata.purposesInWords(31), "train, evaluate, fine-tune, redistribute, commercial");
        assertEq(Metadata.purposesInWords(1 << 7), "none");
    }

    function test_Uuid() external pure {
        assertEq(Metadata.uuid(0x0123456789abcdef0f1e2d3c4b5a6978), "01234567-89ab-cdef-0f1e-2d3c4b5a6978");
        assertEq(Metadata.uuid(bytes16(0)), "00000000-0000-0000-0000-000000000000");
        assertEq(Metadata.uuid(~bytes16(0)), "ffffffff-ffff-ffff-ffff-ffffffffffff");
    }

    function test_EscapeXML() external pure {
        assertEq(
            Metadata.escapeXML(unicode"<a href=\"x\">'&'\n바다</a>"),
            unicode"&lt;a href=&quot;x&quot;&gt;&#39;&amp;&#39; 바다&lt;/a&gt;"
        );
        assertEq(Metadata.escapeXML(""), "");
        assertEq(Metadata.escapeXML(string(hex"001f207f")), string(hex"2020207f"));
    }

    function testFuzz_EscapedTextHasNoMarkup(bytes memory text) external pure {
        string memory escaped = Metadata.escapeXML(string(text));
        assertEq(countOf(escaped, "<") + countOf(escaped, ">") + countOf(escaped, "\""), 0);
        assertGe(bytes(escaped).length, text.length);
        assertLe(bytes(escaped).length, 6 * text.length);
        for (uint256 i = 0; i < bytes(escaped).length; ++i) {
            assertTrue(uint8(bytes(escaped)[i]) >= 0x20);
        }
    }

    function test_TraitsAreTextsAndNumbers() external pure {
        assertEq(Metadata.trait("A", "b"), '{"trait_type":"A","value":"b"}');
        assertEq(Metadata.trait("A", uint256(7)), '{"trait_type":"A","value":7}');
        assertEq(Metadata.trait("A", '"\\'), '{"trait_type":"A","value":"\\"\\\\"}');
    }

    function test_WhenThereAreNoLinesOrTraits() external pure {
        string memory json = jsonOf(Metadata.uri("", new string[](0), new string[](0)));
        assertEq(vm.parseJsonString(json, ".name"), "");
        assertEq(vm.parseJsonString(json, ".description"), "");
        assertFalse(contains(json, "trait_type"));
        checkCard(svgOf(json), 0);
    }

    function testFuzz_ThePageIsWellFormed(bytes memory title, bytes memory line, bytes memory value) external pure {
        string[] memory lines = new string[](2);
        (lines[0], lines[1]) = ("first", ascii(line));
        string[] memory traits = new string[](2);
        (traits[0], traits[1]) = (Metadata.trait("Text", ascii(value)), Metadata.trait("Number", value.length));
        string memory json = jsonOf(Metadata.uri(ascii(title), lines, traits));
        assertEq(vm.parseJsonString(json, ".name"), string(title));
        assertEq(vm.parseJsonString(json, ".description"), string.concat("first; ", string(line)));
        assertEq(vm.parseJsonString(json, ".attributes[0].value"), string(value));
        assertEq(vm.parseJsonUint(json, ".attributes[1].value"), value.length);
        checkCard(svgOf(json), 2);
    }
}

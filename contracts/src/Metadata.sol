// SPDX-License-Identifier: MIT OR Apache-2.0
// Writes ERC-721 metadata that needs no server: JSON with an SVG card, both as data URIs.
pragma solidity ^0.8.28;

import {Base64} from "@openzeppelin/contracts/utils/Base64.sol";
import {Strings} from "@openzeppelin/contracts/utils/Strings.sol";

library Metadata {
    /// @notice One ERC-721 attribute that is a text.
    function trait(string memory name, string memory value) internal pure returns (string memory) {
        return string.concat('{"trait_type":"', name, '","value":"', Strings.escapeJSON(value), '"}');
    }

    /// @notice One ERC-721 attribute that is a number.
    function trait(string memory name, uint256 value) internal pure returns (string memory) {
        return string.concat('{"trait_type":"', name, '","value":', Strings.toString(value), "}");
    }

    /// @notice The token's JSON as a data URI. `title` and `lines` may hold any text; `traits` are of {trait}.
    /// @param lines The description, and the card's lines.
    function uri(string memory title, string[] memory lines, string[] memory traits)
        internal
        pure
        returns (string memory)
    {
        bytes memory json = abi.encodePacked(
            '{"name":"',
            Strings.escapeJSON(title),
            '","description":"',
            Strings.escapeJSON(_join(lines, "; ")),
            '","image":"data:image/svg+xml;base64,',
            Base64.encode(bytes(_card(title, lines))),
            '","attributes":[',
            _join(traits, ","),
            "]}"
        );
        return string.concat("data:application/json;base64,", Base64.encode(json));
    }

    /// @notice The bits of Consent.purposes by name: "train, commercial"; "none" where there is no known bit.
    function purposesInWords(uint32 purposes) internal pure returns (string memory words) {
        string[5] memory names = ["train", "evaluate", "fine-tune", "redistribute", "commercial"];
        for (uint256 bit = 0; bit < names.length; ++bit) {
            if ((purposes >> bit) & 1 == 0) continue;
            words = bytes(words).length == 0 ? names[bit] : string.concat(words, ", ", names[bit]);
        }
        if (bytes(words).length == 0) return "none";
    }

    /// @notice A UUID the way RFC 9562 writes it.
    function uuid(bytes16 id) internal pure returns (string memory) {
        bytes memory digits = "0123456789abcdef";
        bytes memory text = new bytes(36);
        uint256 length = 0;
        for (uint256 i = 0; i < 16; ++i) {
            if (i == 4 || i == 6 || i == 8 || i == 10) text[length++] = "-";
            text[length++] = digits[uint8(id[i]) >> 4];
            text[length++] = digits[uint8(id[i]) & 15];
        }
        return string(text);
    }

    /// @notice Text that is safe between XML tags; characters that XML 1.0 has no way to write become spaces.
    function escapeXML(string memory text) internal pure returns (string memory) {
        bytes memory input = bytes(text);
        bytes memory output = new bytes(input.length * 6);
        uint256 length = 0;
        for (uint256 i = 0; i < input.length; ++i) {
            bytes memory written = _xmlOf(input[i]);
            for (uint256 j = 0; j < written.length; ++j) {
                output[length++] = written[j];
            }
        }
        // solhint-disable-next-line no-inline-assembly
        assembly ("memory-safe") {
            // Cuts the buffer to what was written; length ≤ its capacity.
            mstore(output, length)
        }
        return string(output);
    }

    function _xmlOf(bytes1 c) private pure returns (bytes memory) {
        if (c == "&") return "&amp;";
        if (c == "<") return "&lt;";
        if (c == ">") return "&gt;";
        if (c == '"') return "&quot;";
        if (c == "'") return "&#39;";
        if (c < 0x20) return " ";
        return abi.encodePacked(c);
    }

    function _card(string memory title, string[] memory lines) private pure returns (string memory svg) {
        svg = string.concat(
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 ',
            Strings.toString(120 + 32 * lines.length),
            '" font-family="monospace"><rect width="100%" height="100%" fill="#0b2530"/>',
            '<text x="32" y="56" font-size="26" fill="#7fd6c8">',
            escapeXML(title),
            '</text><g font-size="17" fill="#e8f1f2">'
        );
        for (uint256 i = 0; i < lines.length; ++i) {
            svg = string.concat(
                svg, '<text x="32" y="', Strings.toString(104 + 32 * i), '">', escapeXML(lines[i]), "</text>"
            );
        }
        return string.concat(svg, "</g></svg>");
    }

    function _join(string[] memory parts, string memory separator) private pure returns (string memory joined) {
        for (uint256 i = 0; i < parts.length; ++i) {
            joined = i == 0 ? parts[i] : string.concat(joined, separator, parts[i]);
        }
    }
}
